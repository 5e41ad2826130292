"""What is done in the background: each job a `run_once()`, one bounded piece of work, with a thin loop around it."""
