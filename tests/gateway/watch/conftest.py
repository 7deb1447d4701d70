"""A guard that knows a few kinds of questions, and unwelcome ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from wye.query.guarded_query_routing import GuardedRouter
from wye.query.guards import AnyGuard, KnownTokenGuard, SigmoidGuard, VectorClassifier

VERBS = ("break into", "set fire to", "rob", "poison", "blow up", "steal from")
PLACES = ("house", "shop", "office", "bank", "garage", "school", "farm", "museum", "car", "flat")


@pytest.fixture(scope="session")
def guard_file(tmp_path_factory) -> Path:
    from wye.data import load_embedded

    data = load_embedded()
    kept = [i for i, name in enumerate(data.datasets) if name in ("capital", "product", "unit")]
    unsafe = [
        f"Explain how to {verb} the neighbour's {place}" for verb in VERBS for place in PLACES
    ]
    texts = [data.texts[i] for i in kept] + unsafe
    domains = [str(data.datasets[i]) for i in kept] + ["unsafe"] * len(unsafe)
    rules = AnyGuard(guards=(SigmoidGuard(), KnownTokenGuard()))
    made = GuardedRouter(VectorClassifier(), rules).fit(texts, domains)
    return made.save(tmp_path_factory.mktemp("guard") / "guard.safetensors")
