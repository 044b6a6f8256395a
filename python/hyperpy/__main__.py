"""`python -m hyperpy` is the command `hyperpy`."""

import sys

from hyperpy.cli import main

sys.exit(main())
