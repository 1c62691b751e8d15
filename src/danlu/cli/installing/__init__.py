"""Commands that install: the offline bundle for another machine, the one-click scripts."""
