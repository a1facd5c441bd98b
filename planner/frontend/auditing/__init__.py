"""The audit of a graph: the real model, as its plain loop trains it, beside its cut graph, for two steps, to the bit.

numerics (what both run under)    draws (an eager run's random numbers, keyed as the graph's)
    -> sides (the live model; the shards) -> comparison -> audit, and where they differ: localising
"""
