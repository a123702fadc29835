"""Real container clients, driven as a user would, against the proxy."""
