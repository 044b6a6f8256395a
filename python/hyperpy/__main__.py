"""`python -m hyperpy`: the command line of `hyperpy.cli`."""

import sys

from hyperpy.cli import main

sys.exit(main())
