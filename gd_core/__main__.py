"""`python -m gd_core`."""

import sys

from .cli import main

sys.exit(main())
