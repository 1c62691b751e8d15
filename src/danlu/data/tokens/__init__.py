"""Conversations as tokenized examples: made to fit, kept, ordered, packed."""
