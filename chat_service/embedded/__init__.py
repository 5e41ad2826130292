"""Servers that we start ourselves, for development, tests and benchmarks; nothing here runs in production."""
