"""A run as processes: how one is asked to end, how several come together, share work and end.

Imports nothing, as `stopping` comes before every other import.
"""
