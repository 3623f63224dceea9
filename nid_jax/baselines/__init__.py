"""Cheap ways to signals that need no dictionary: what a fit is shown beside and compared with.

Plain functions of arrays; which of them a task is compared with, the task says.
"""
