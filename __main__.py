"""`python -m hydraplan` is `hydraplan`."""

from hydraplan.tools.cli import script

script()
