"""Where parameters and state lie while a plan runs.

store (host slabs) -> regions (of a device's arena) -> optimizer (updates, view by view)
"""
