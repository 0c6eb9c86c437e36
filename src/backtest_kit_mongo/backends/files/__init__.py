"""Files in the original's layout."""
