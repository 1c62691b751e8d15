"""The doctor: what this machine has, what is wrong with it, and the command that repairs it."""
