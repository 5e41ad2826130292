"""The proof by breaking: load over HTTP, a seeded schedule of faults, and one checker for all that is promised.

- `schedule.py` breaks things, in an order that its seed gives again.
- `load.py` is the callers, `wire.py` how they send, `connections.py` how they connect; all goes into `record.py`.
- `checker.py` settles what was left unknown as a caller would, and compares what was answered with what is there.
- `report.py` counts, and writes the table and the file.
"""
