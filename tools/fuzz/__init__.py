"""A fuzz of plans: valid plan files, mutated by a seed, and what has to hold of each mutant.

seeds (tiny plans of models that can be trained here) -> mutations (text in, text out) -> trial (reading, check,
inspect, diff, and for those that hold: training) -> a list of defects, hopefully empty

    python -m hydraplan.tools.fuzz --mutants 3000 --seed 7
"""
