"""How a plan is written and read: strict JSON, one step a line, every mistake told at its line.

text (plan <-> JSON) -> models (what JSON may hold) -> positions (lines) -> complaints (for people);   schema
"""
