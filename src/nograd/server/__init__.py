"""The server: `protocol` (pure codec), `service` (models and their life), `http` (ASGI), `metrics` and `live` (what is seen), `run`."""
