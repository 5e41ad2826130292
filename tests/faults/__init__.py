"""Faults in the database, at every step of every transaction: real ones, by mongod's own failpoints."""
