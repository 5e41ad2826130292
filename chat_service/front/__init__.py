"""How HTTP reaches the application: the ASGI front and gunicorn's worker."""
