"""The parts of comparisons that are too large for the file of their command."""
