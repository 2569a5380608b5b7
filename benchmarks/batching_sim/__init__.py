"""A simulated device, real policies: what a rule of batching is worth before a server runs it."""
