"""Replay: takes a plan's lists and bound operations, runs each step when what it depends on is done.

program (lists compiled) -> memory, operations, batches -> binding -> updates, replay         failures
"""
