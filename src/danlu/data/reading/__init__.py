"""Files and hubs: what a data file holds, row by row, each with its place."""
