"""What a browser shows: the chat page and the documentation."""
