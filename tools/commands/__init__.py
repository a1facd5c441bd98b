"""The commands, one module each: `add` declares its arguments, `run` does it.

Modules import torch, the solver and rich within `run` alone, so that help, `check` and `diff` start at once.
"""
