"""Services that others would write in an afternoon, to be measured beside this one: see benchmarks/delete.py."""
