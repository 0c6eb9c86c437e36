"""PostgreSQL, for values by id: settings, and connections of a process."""
