"""Merging in the studio: an adapter into its base, and models for other programs."""
