"""Commands over the models of this machine: which there are, pulling, the default, removing."""
