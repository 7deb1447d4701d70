"""`GET /api/experiments`: versions, experiments and learners, as the dashboard shows them.

The answer, where `X?` is X or null, and times are seconds since 1970:

    {"present": {"version": str, "digest": str, "source": "wye.toml" or "store", "since": float?,
                 "error": str?},
     "versions": [{"id": str, "created": float, "note": str, "origin": "wye.toml" or "added",
                   "router": str?, "policies": {name: {"kind": str, ...}}, "default_policy": str,
                   "bytes": int, "state": "present", "previous", "trial" or "kept"}],
     "uses": [{"time": float, "version": str?, "reason": str}],
     "gateways": [{"gateway": str, "seen": float, "version": str, "digest": str, "error": str?}],
     "experiments": [{"id": str, "name": str, "kind": "shadow", "canary" or "ab",
                      "version": str, "control": str?, "share": float, "by": "session" or "key",
                      "state": "running", "stopped", "harmful", "better", "worse" or "promoted",
                      "started": float, "ended": float?, "reason": str?,
                      "alpha": float, "cost_weight": float,
                      "arms": {"control": ARM, "candidate": ARM},
                      "differences": [{"metric": "reward", "cost" or "errors", "estimate": float?,
                                       "low": float?, "high": float?, "p": float}],
                      "shadow": SHADOW?, "words": str}],
     "learners": [{"name": str, "kind": str, "reader": str, "judged": int,
                   "targets": {name: int}}]}

    ARM     {"requests": int, "units": int, "judged": int, "reward": float?, "cost_usd": float?,
             "errors": float?}: means over units; `errors` is the share of units that failed
    SHADOW  {"decisions": int, "same": float?, "targets": {name: int}, "quality": float?,
             "cost_usd": float?}: `same` is the share that chose what was really chosen, `quality`
             and `cost_usd` what was expected of its choices

Newest first everywhere but in `differences` (candidate less control; `p` is always valid: it may be
read at any time, `wye.gateway.learning.analysis`).
"""

from __future__ import annotations
