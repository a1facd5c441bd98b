"""Planning on all cores: functions side by side in forked processes, graphs that live in other ones.

forks -> elsewhere          collector: the garbage collector, out of the way
"""
