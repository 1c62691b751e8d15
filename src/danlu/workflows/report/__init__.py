"""The before/after report of a run: measured, put into words, written as HTML and Markdown."""
