"""The gateway: an OpenAI-compatible server that routes every request and remembers why.

Read it in the order of a request: `app` (routes), `chat` (request to response), `router_service`
(decision), `dispatch` (asking targets, falling back), `endpoint` and `embedded` (the targets),
`streaming` (answers to a client that may leave), `store` (what is remembered), `reports` (what the
dashboard shows of it). `server.serve` runs it.
"""
