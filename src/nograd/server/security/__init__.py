"""Access control: API keys, origins, TLS."""
