"""``python -m depthsearch``."""

import sys

from depthsearch.cli.entry import main

sys.exit(main())
