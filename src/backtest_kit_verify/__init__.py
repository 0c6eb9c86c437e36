"""What checks the product and is not part of it: simulation, chaos, the demonstration, and their commands."""
