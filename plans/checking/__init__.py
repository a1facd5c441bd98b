"""Whether a plan holds: takes a plan, gives every finding, each with its place, cause and remedy.

references (names exist) -> check (order, memory, predictions)
"""
