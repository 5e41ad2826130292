"""The open WebSockets of this process: who may have one, what is said on it, and when it ends."""
