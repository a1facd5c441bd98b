"""What the lists of a plan do when run line by line: takes a plan, gives objects, dependencies, addresses and peaks.

objects -> state -> slab_rules, cell_rules, ends -> flow -> hazards (what waits for what)
                                                         -> arena (where in memory) -> memory (how much)
"""
