"""Groups of keys that the configs of tasks are composed of, by who reads them.

Every function returns a new dict of plain values, with the values that tasks share.
"""
