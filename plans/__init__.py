"""The language of plans: what a plan is, how it is written, what its lists do, when, and whether it holds.

    language -> file -> analysis -> prediction -> checking, diff

Neither torch nor a solver is imported here: a plan can be read, checked and simulated anywhere.
"""
