"""`python -m srum_core`: the command `srum`."""

import sys

from srum_core.cli.main import main

sys.exit(main())
