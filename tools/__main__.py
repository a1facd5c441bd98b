"""`python -m tools` is `hydraplan`."""

from tools.cli import script

script()
