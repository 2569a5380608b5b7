"""Who may call the server: API keys, origins, TLS."""
