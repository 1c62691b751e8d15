"""Weights that stay as they are, kept in a form in which a device multiplies them faster."""
