"""How much memory a probe may take where the user does not say. Imports nothing, so that all may read it."""

MEMORY_BUDGET = 2_000_000_000
"""Bytes of scores, gradients and what else is made beside the features."""
