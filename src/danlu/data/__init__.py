"""Data sets: files to rows, rows to conversations, conversations to checked tokens."""
