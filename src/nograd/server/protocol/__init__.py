"""The Open Inference Protocol and its extensions: bytes to arrays and back. Pure; no HTTP, no models."""
