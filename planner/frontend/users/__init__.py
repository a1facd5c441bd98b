"""The user's own code and data: takes what a job names, gives callables, data sets and microbatches.

usercode (what may come out of it) -> imports -> data -> lengths
"""
