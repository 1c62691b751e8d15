"""Models and adapters by name: what a name means, where it is, how it is loaded."""
