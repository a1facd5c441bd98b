"""Models of libraries that nobody here wrote, tiny, each with samples that fit its forward.

    samples -> entry -> vision, others (the tables) -> catalogue -> models (what jobs name: make, rows, loss)

The libraries come with the extra `audit`; one that is absent is skipped, and that is said.
"""
