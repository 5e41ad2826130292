"""Background jobs. Each has a `run_once()`, which does one bounded piece of work; `runner.py` calls it in a loop."""
