#!/usr/bin/env bash
# Run all that needs a GPU in at most eight minutes and print one table: see gpu_check.py beside this file.
#
#     benchmarks/gpu_check.sh          on a machine with a GPU
#     benchmarks/gpu_check.sh --cpu    every step with tiny sizes, as far as it goes without one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m benchmarks.gpu_check "$@"
