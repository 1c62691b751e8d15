"""Finished models for other programs: an adapter merged into its base."""
