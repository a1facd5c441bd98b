"""Benchmarks: `make bench NAME=...`; each prints one JSON object as its last line. See RESULTS.md."""
