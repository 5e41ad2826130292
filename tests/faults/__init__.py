"""Tests with real faults: mongod's own failpoints at every step of every transaction, kills, and pauses."""
