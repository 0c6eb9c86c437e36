"""Tools for people who run the servers: examine, watch, check."""
