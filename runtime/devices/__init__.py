"""What devices are made of: an arena, three streams, events; throttled links.

timelines, links -> device (the interface) -> cpu, cuda -> backings (who knows them all)
"""
