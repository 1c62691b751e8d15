"""Corrected answers: the rows that they become, and training on them."""
