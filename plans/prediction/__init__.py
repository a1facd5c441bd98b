"""When the steps of a plan run, and how long any plan takes at least: takes a plan, gives times in microseconds.

durations (of a step) -> events (that start and end) -> simulate (all engines);   bounds (no plan is faster)
"""
