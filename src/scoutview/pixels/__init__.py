"""Files in and out, with their geometry. NumPy only."""
