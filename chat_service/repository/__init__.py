"""Database access: the only code of the running service that uses pymongo and bson."""
