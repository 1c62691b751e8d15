"""A run's folder: run.json, metrics, checkpoints, the files made from them, the list of runs."""
