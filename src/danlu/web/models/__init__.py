"""Models in the studio: the one that is loaded, those that are here, those to pull."""
