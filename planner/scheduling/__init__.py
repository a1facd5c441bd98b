"""The joint schedule: takes jobs, options and devices, gives decisions of least makespan.

instance -> options -> greedy -> patterns (bound) -> configurations -> phases, stages -> evaluate -> schedule
solver: pulp, for all of them
"""
