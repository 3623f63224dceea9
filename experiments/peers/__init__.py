"""What dictionaries are compared with."""
