"""A job's model under its loss, fake for the planner or real for a run, with what it was made from.

configurations, checkpoint -> loading -> model        conversions, fakes, quiet, freed: what making one needs
links: what a checkpoint may point at
fingerprints: libraries, data, checkpoints and code as they were -> admit: whether that code may run
"""
