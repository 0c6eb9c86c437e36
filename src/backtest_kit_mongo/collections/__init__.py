"""Collections of one's own beside the 17 domains."""
