"""The file that a user writes: TOML in, a frozen Workload out, every mistake told at once.

tables (what may stand there) -> sweep (one job for each point) -> file (names resolved)
"""
