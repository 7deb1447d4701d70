"""The gateway's own API as an OpenAPI document (`GET /openapi.json`)."""
