"""Shards that run: takes a traced graph and cuts, gives callables with a forward and a backward.

slices -> gradients -> cell (eager autograd) -> sharded
    program: the interface          build: the real model's tensors
"""
