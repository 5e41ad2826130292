"""How requests reach the application: gunicorn's worker, the protocols, and the admission to threads."""
