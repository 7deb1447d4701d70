"""Money and limits: what a request used, what that costs, and who may spend how much.

In the order of a request: `keys` (who asks), `limits` (how often), `bounds` (the most a request can
cost), `ledger` (reserve, settle), `admission` (all of these around one request); `usage` and
`prices` say what the answer cost.
"""
