"""How requests reach the application: gunicorn's worker, the protocols, and who gets a thread when."""
