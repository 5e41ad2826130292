"""A multi-tenant chat service whose deletes are atomic, single and final."""

__version__ = "0.2.0"
