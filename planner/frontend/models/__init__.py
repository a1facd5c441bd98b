"""A job's model under its loss, fake for the planner or real for a run, with what it was made from.

configurations, checkpoint -> loading -> model        conversions, fakes, quiet, freed: what making one needs
fingerprints: libraries, data and checkpoints as they were
"""
