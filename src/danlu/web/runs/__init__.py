"""The page of runs: the list, a run as it goes on, and what came out of it."""
