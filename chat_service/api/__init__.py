"""What arrives over HTTP and what leaves."""
