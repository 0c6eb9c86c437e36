"""Collections of one's own beside those of the domains."""
