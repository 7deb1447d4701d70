"""Answers that were given before, given again: exact and semantic, off by default.

    request -> question -> found? -> replayed, at no cost
                        -> in flight? -> waited for
                        -> asked, and kept where the answer is whole

Parts: `settings` (what is configured), `question` (what has to be equal), `likeness` (when two asks
count as one), `answers` (what is kept), `shelf` (the same in the store), `cache` (look-ups and
flights), `serving` (over HTTP).
"""
