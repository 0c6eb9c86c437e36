"""Redis: the cache's scripts, one connection or several nodes, what a client could not deliver."""
