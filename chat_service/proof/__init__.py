"""Proof that outlives the database: the log as a Merkle tree, its signed checkpoints, and their verification.

The formats are published ones: RFC 6962, and C2SP's signed-note, tlog-checkpoint and tlog-proof. No database is needed.
"""
