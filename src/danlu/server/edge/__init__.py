"""What surrounds every route: connections, access control, limits, keys, errors, the log."""
