"""What is seen from outside: log lines and metrics."""
