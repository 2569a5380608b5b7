"""The server: `protocol` (pure codec), `service` (models and their life), `http` (ASGI), `metrics`, `live`, `run`."""
