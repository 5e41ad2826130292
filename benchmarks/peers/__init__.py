"""Simple services on other frameworks, to be measured beside this one: see benchmarks/delete.py."""
