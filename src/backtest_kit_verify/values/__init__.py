"""What a class of values by id keeps of a writer that is killed."""
