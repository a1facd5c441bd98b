"""`python -m tools` is `hydraplan`."""

import sys

from tools.cli import main

sys.exit(main())
