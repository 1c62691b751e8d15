"""From one typed class per command: flags, YAML, environment, help, JSON schema."""
