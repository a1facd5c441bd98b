"""The tracing front end: from a job to shards that run. All of the planner that the runtime may import."""
