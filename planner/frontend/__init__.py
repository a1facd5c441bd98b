"""The tracing front end: from a job to shards that run. All of the planner that the runtime may import.

users (their code and data) -> models (made or loaded) -> tracing (one normal graph) -> shards (callables)
"""
