"""What a plan is: frozen types of the workload, the facts of its graphs, the decisions, the steps of its lists.

workload (jobs, cluster), facts, steps -> plan;   names, quantities, digests, rows, optimizer: what they share
errors: the whole tree, each with its exit code
"""
