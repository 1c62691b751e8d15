"""The cache of keys and values: its layouts, attention to it, and recorded steps of it."""
