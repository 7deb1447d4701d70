"""A router whose embeddings come over the network: nobody waits long for an endpoint that fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wye.embed import CachedEmbedder
from wye.embed.endpoint import EndpointEmbedder
from wye.query.base import Estimate, QueryRouter

ONE = {"data": [{"index": 0, "embedding": [0.6, 0.8]}], "usage": {"prompt_tokens": 3}}


class Distant(QueryRouter):
    """Promises as much of `ok` as the second number of a text's vector."""

    name = "distant"
    models_ = ("ok",)

    def __init__(self, *, embedder=None):
        self.embedder = self.embedder_ = embedder

    def fit(self, data):
        return self

    def estimate(self, texts):
        quality = self.embedder_.embed(texts)[:, 1:].astype(float)
        known = np.full_like(quality, 0.1)
        return Estimate(self.models_, quality, known, known, known, np.zeros(len(texts)))

    def get_state(self):
        return {}, {}

    def set_state(self, arrays, values):
        pass


@pytest.fixture
def distant(serve, world, request):
    """Of what the endpoint answers: a gateway, and the endpoint's name of the embedder."""

    def start(wrap=lambda embedder: embedder, **answer):
        model = f"embed@{request.node.name}"
        world.script(model, **answer)
        router = Distant(embedder=wrap(EndpointEmbedder(world.base_url, model)))
        served = serve(
            router=router,
            targets=[world.target("ok"), world.target("other", model="no-usage", quality=0.7)],
        )
        return served, model

    return start


def test_an_endpoint_that_answers_is_what_decides(distant, world):
    served, model = distant(body=ONE)
    assert served.ask(text="six times seven").headers["x-wye-target"] == "ok"
    assert [note["body"]["input"] for note in world.seen(model)] == [["six times seven"]]


def test_an_endpoint_that_hangs_keeps_nobody_waiting(distant, world):
    """Many wait for it at once, and the gateway's other threads are free meanwhile."""
    served, model = distant(events=["hang"])
    with ThreadPoolExecutor(40) as clients:
        asked = [clients.submit(served.ask, text=f"ask {n}") for n in range(40)]
        assert served.http.get("/v1/decisions", timeout=1.5).status_code == 200
        answers = [one.result() for one in asked]
    assert {answer.headers.get("x-wye-target") for answer in answers} == {"other"}
    before = len(world.seen(model))
    assert 0 < before <= 40
    # By then it is left alone.
    assert served.ask(text="another").headers["x-wye-target"] == "other"
    assert len(world.seen(model)) == before


@pytest.mark.parametrize("kept", [False, True])
def test_an_endpoint_that_fails_is_asked_once_for_a_request(distant, world, tmp_path, kept):
    def wrap(embedder):
        return CachedEmbedder(embedder, tmp_path / "vectors") if kept else embedder

    served, model = distant(wrap, status=500, body={"error": {"message": "trouble"}})
    for n in range(4):
        answer = served.ask(text=f"ask {n}")
        assert answer.headers["x-wye-target"] == "other"
    assert len(world.seen(model)) == 3
    why = served.decision(answer)["reasons"]
    assert any("quality 0.70 is from wye.toml" in reason for reason in why)
