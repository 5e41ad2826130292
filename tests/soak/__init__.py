"""Fault campaigns: load over HTTP, a seeded schedule of faults, and one checker for every promise of the service.

- `schedule.py` breaks the replica set; the same seed gives the same faults in the same order.
- `load.py` runs the callers, `wire.py` sends their requests, and `connections.py` opens their WebSockets.
- `record.py` defines the record of a request and its answer.
- `settle.py` resolves unknown outcomes as a caller would.
- `checker.py` compares the answers with what is stored.
- `report.py` counts, and writes the table and the file.
"""
