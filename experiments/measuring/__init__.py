"""Time, operations and results of the comparisons, and what every command has in common."""
