"""The user's own code and data: takes what a job names, gives callables, data sets and microbatches.

origins (where modules lie) -> sources (what a plan is bound to) -> admission (what a plan may call)
usercode (what may come out of it) -> imports -> data -> lengths
"""
