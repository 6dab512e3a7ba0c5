"""`python -m clockstep`: the command line without the console script."""

from __future__ import annotations

import sys

from clockstep.app import main

sys.exit(main())
