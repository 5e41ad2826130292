"""Servers that we start ourselves, for development, tests and benchmarks. Nothing here runs in production."""
