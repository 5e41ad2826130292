"""What an operator does from a shell: `flask --app wsgi …`."""
