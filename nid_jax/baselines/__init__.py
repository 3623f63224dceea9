"""Baselines: cheap and usual ways to signals that need no dictionary, which a fit is compared with.

Plain functions of arrays; which of them a task is compared with, the task says.
"""
