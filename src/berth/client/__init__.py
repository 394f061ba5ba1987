"""The engine's client, blocking, for any engine that speaks Docker's API: see docs/dev/client.md."""
