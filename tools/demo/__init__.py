"""The demo: a sweep of GPT-2-style byte models over the standard library's source, on two small devices."""
