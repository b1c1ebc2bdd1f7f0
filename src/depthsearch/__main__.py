"""``python -m depthsearch``."""

import sys

from depthsearch.cli import main

sys.exit(main())
