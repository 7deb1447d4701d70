"""Prompt caches of providers inside the choice: what a conversation loses by going elsewhere.

    request -> prefix -> what each target has cached of it -> expected cost -> policy

Parts: `settings` (what is configured), `prefix` (what of a request a cache could hold), `memory`
(what was seen to be cached), `switching` (what that does to the cost of each target).
"""
