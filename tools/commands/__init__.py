"""The commands, one module each: a function whose signature is the command's arguments and whose docstring its help.

Modules import torch, the solver and rich within the function alone, so that help, `check` and `diff` start at once.
"""
