"""The commands over this machine: what it has, and what is wrong with it."""
