"""Where a graph is cut: takes a traced graph and a cluster, gives positions.

segments (estimates for every [a, b)) -> partition (dynamic programming)
"""
