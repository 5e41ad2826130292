"""The only code that knows pymongo and bson."""
