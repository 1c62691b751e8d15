"""The device of this process: what it can do, how much memory it has, how fast it is."""
