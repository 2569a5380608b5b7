"""What is done to a model before it runs: memory, precision, size."""
