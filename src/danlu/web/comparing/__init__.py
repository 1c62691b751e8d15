"""Comparisons: the same question to several voices at once, and which answer was better."""
