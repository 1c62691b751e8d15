"""Data sets in the studio: those it knows, what is wrong with them, and their changed rows."""
