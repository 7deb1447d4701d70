"""Gateways with a cache of answers, each with one target of the test's own."""

from __future__ import annotations

import pytest


@pytest.fixture
def cached(serve, world, request):
    """Of a configuration: a gateway, and how often its target was asked."""

    def start(kind: str = "ok", **values):
        name = f"{kind}@{request.node.name}"
        table = values.pop("cache", {})
        targets = values.pop("targets", [world.target(name)])
        served = serve(targets=targets, answer_cache=table, **values)
        return served, lambda: len(world.seen(name))

    return start
