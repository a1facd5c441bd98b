"""From decisions to lists: what each device runs, in which order, and where it fits.

contradictions -> views, rates -> cycles -> making -> orders -> cells -> programs
                                          -> fitting -> engines -> dispatch -> dispatched
"""
