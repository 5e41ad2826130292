"""Proof that outlives the database: the log as a Merkle tree, its signed checkpoints, and how one verifies them.

The published formats, RFC 6962 and C2SP's signed-note, tlog-checkpoint and tlog-proof. Needs no database.
"""
