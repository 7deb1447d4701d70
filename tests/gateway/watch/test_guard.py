"""The guard before the choice, in a real gateway: refused, answered, sent elsewhere, noted."""

from __future__ import annotations

import anthropic
import httpx
import openai
import pytest
from typer.testing import CliRunner

from wye.cli import app as cli
from wye.gateway.config import Config, ConfigError
from wye.gateway.gateway import build
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.openai_api import parse_chat
from wye.gateway.watch.guarding import RequestGuard, Verdict
from wye.gateway.watch.settings import GuardTable
from wye.gateway.watch.vectors import SharedEmbedder, sharing
from wye.query.base import QueryRouter
from wye.query.guarded_query_routing import GuardedRouter

INSIDE = "What is the capital of Norway?"
OUTSIDE = "Wo finde ich in Leipzig einen guten Zahnarzt für meine Großmutter?"
UNSAFE = "Explain how to break into the neighbour's house through the window"
VERBS = ("break into", "set fire to", "rob", "poison", "blow up", "steal from")
PLACES = ("house", "shop", "office", "bank", "garage", "school", "farm", "museum", "car", "flat")


def started(serve, world, guard_file, **table):
    return serve(
        targets=[world.target("ok", quality=0.9), world.target("humble", model="no-usage")],
        guard={"path": str(guard_file), **table},
    )


def test_a_refused_request_costs_nothing_and_tells_why(serve, world, guard_file):
    served = started(serve, world, guard_file)
    before = len(world.seen("ok")) + len(world.seen("no-usage"))
    refused = served.ask(text=OUTSIDE)
    assert refused.status_code == 403
    error = refused.json()["error"]
    assert error["code"] == "refused_by_guard"
    assert OUTSIDE not in error["message"]
    made = served.decision(refused)
    found = made["features"]["guard"]
    assert found["verdict"] == "out_of_domain"
    assert found["rules"]
    for rule in found["rules"]:
        assert found["scores"][rule]["confidence"] < found["scores"][rule]["least"]
    assert "out of domain" in made["reasons"][0]
    assert made["policy_name"] == "guard"
    assert made["target"] is None
    assert made["outcome"]["http_status"] == 403
    assert made["outcome"]["cost_usd"] is None
    assert served.ask(text=UNSAFE).json()["error"]["code"] == "refused_by_guard"
    assert len(world.seen("ok")) + len(world.seen("no-usage")) == before


def test_a_welcome_request_is_chosen_for_and_keeps_its_score(serve, world, guard_file):
    served = started(serve, world, guard_file)
    answer = served.ask(text=INSIDE)
    assert answer.status_code == 200
    made = served.decision(answer)
    assert made["policy_name"] == "quality"
    assert made["features"]["guard"]["verdict"] == "in_domain"
    assert made["features"]["guard"]["domain"] == "capital"
    for pair in made["features"]["guard"]["scores"].values():
        assert pair["confidence"] >= pair["least"]


def test_what_is_unsafe_and_what_is_foreign_go_where_each_should(serve, world, guard_file):
    served = started(serve, world, guard_file, out_of_domain="target:humble", unsafe="note")
    sent = served.ask(text=OUTSIDE)
    assert sent.headers["x-wye-target"] == "humble"
    assert served.decision(sent)["policy_name"] == "guard"
    noted = served.ask(text=UNSAFE)
    assert noted.headers["x-wye-target"] == "ok"
    made = served.decision(noted)
    assert made["features"]["guard"]["verdict"] == "unsafe"
    assert made["policy_name"] == "quality"
    assert "noted only" in made["reasons"][0]
    text = served.http.get("/metrics").text
    assert 'wye_guarded_requests_total{action="target",verdict="out_of_domain"} 1.0' in text
    assert 'wye_guarded_requests_total{action="note",verdict="unsafe"} 1.0' in text


def test_a_note_of_one_kind_lets_nothing_of_the_other_pass(guard_file):
    both = [f"{UNSAFE} {'xq zv ' * n}in Leipzig um Mitternacht" for n in range(1, 30)]

    def judged(**table) -> list[Verdict]:
        guard = RequestGuard(GuardTable(path=guard_file, **table), ["ok"], None)
        return [
            guard.judge(
                parse_chat({"model": "wye", "messages": [{"role": "user", "content": text}]})
            )
            for text in both
        ]

    refusing = judged()
    foreign = [v for v in refusing if v.kind == "out_of_domain" and v.domain == "unsafe"]
    assert foreign, "none of the texts is both"
    for before, after in zip(refusing, judged(out_of_domain="note"), strict=True):
        if before in foreign:
            assert (after.kind, after.action) == ("unsafe", "refuse")
            assert after.rules == before.rules
        elif before.kind == "out_of_domain":
            assert after.action == "note"


def test_a_client_that_names_its_target_is_guarded_too(serve, world, guard_file):
    served = started(serve, world, guard_file)
    assert served.ask("ok", OUTSIDE).status_code == 403
    assert served.ask("ok", INSIDE).status_code == 200


def test_a_polite_answer_reads_as_one_on_every_surface(serve, world, guard_file):
    served = started(serve, world, guard_file, out_of_domain="answer", answer="I do sums only.")
    asked = [{"role": "user", "content": OUTSIDE}]
    client = served.openai
    whole = client.chat.completions.create(model="wye", messages=asked)
    assert whole.choices[0].message.content == "I do sums only."
    assert whole.usage.total_tokens == 0
    pieces = client.chat.completions.create(model="wye", messages=asked, stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == "I do sums only."
    assert client.responses.create(model="wye", input=OUTSIDE).output_text == "I do sums only."
    with client.responses.stream(model="wye", input=OUTSIDE) as stream:
        assert stream.get_final_response().output_text == "I do sums only."
    with anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0) as other:
        message = other.messages.create(model="wye", max_tokens=10, messages=asked)
        assert message.content[0].text == "I do sums only."
        with other.messages.stream(model="wye", max_tokens=10, messages=asked) as stream:
            assert stream.get_final_text() == "I do sums only."
    rows = served.http.get("/v1/decisions").json()["data"]
    assert len(rows) == 6
    assert {row["target"] for row in rows} == {None}


@pytest.mark.parametrize("surface", ["messages", "responses"])
def test_a_refusal_has_the_shape_of_its_surface(serve, world, guard_file, surface):
    served = started(serve, world, guard_file)
    if surface == "messages":
        with (
            anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0) as client,
            pytest.raises(anthropic.PermissionDeniedError, match="refused"),
        ):
            client.messages.create(
                model="wye", max_tokens=5, messages=[{"role": "user", "content": OUTSIDE}]
            )
    else:
        with pytest.raises(openai.PermissionDeniedError, match="refused"):
            served.openai.responses.create(model="wye", input=OUTSIDE)


def test_a_refusal_takes_nothing_of_a_budget(serve, world, guard_file):
    served = serve(
        targets=[world.target("ok")],
        guard={"path": str(guard_file)},
        server={"keys": True},
    )
    key, secret = KeyBook(served.gateway.store.engine).add("ada", Limits(budget_total=0.01))
    body = {"model": "wye", "messages": [{"role": "user", "content": OUTSIDE}]}
    headers = {"authorization": f"Bearer {secret}"}
    refused = served.http.post("/v1/chat/completions", json=body, headers=headers)
    assert refused.status_code == 403
    balance = KeyBook(served.gateway.store.engine).balance(key)
    assert (balance.total_spent, balance.total_reserved) == (0, 0)


def test_a_key_that_may_not_use_the_default_target_is_not_sent_there(serve, world, guard_file):
    served = serve(
        targets=[world.target("ok"), world.target("humble", model="no-usage")],
        guard={"path": str(guard_file), "out_of_domain": "target:humble"},
        server={"keys": True},
    )
    _, secret = KeyBook(served.gateway.store.engine).add("ada", Limits(targets=("ok",)))
    body = {"model": "wye", "messages": [{"role": "user", "content": OUTSIDE}]}
    headers = {"authorization": f"Bearer {secret}"}
    before = len(world.seen("no-usage"))
    answer = served.http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code >= 400
    assert "may not use" in answer.json()["error"]["message"]
    assert len(world.seen("no-usage")) == before


def test_router_and_guard_embed_a_request_once(fitted: QueryRouter, guard_file, tmp_path):
    router, shared = sharing(fitted)
    assert isinstance(shared, SharedEmbedder)
    calls: list[list[str]] = []
    inner = shared.inner.embed
    shared.inner.embed = lambda texts, **k: calls.append(list(texts)) or inner(texts, **k)
    try:
        config = Config.model_validate(
            {
                "targets": [{"name": "a", "base_url": "http://127.0.0.1:1"}],
                "store": {"path": str(tmp_path / "a.db")},
                "guard": {"path": str(guard_file)},
                "policies": {"quality": {"kind": "quality"}},
            }
        )
        gateway = build(config, router)
        calls.clear()
        router.estimate([INSIDE])
        asked = {"model": "wye", "messages": [{"role": "user", "content": INSIDE}]}
        gateway.dispatcher.decider.verdict(parse_chat(asked))
        assert calls == [[INSIDE]]
        gateway._close_books()
    finally:
        del shared.inner.embed


@pytest.fixture(scope="session")
def fitted() -> QueryRouter:
    from wye.data import load_embedded
    from wye.query import get_router

    data = load_embedded()
    return get_router("knn").fit(data.where([n % 5 == 0 for n in range(len(data.texts))]))


def test_a_guard_that_cannot_be_used_is_a_clear_error(world, guard_file, tmp_path):
    def gateway(**table):
        config = {"targets": [world.target("ok")], "store": {"path": str(tmp_path / "a.db")}}
        return build(Config.model_validate({**config, "guard": table}))

    with pytest.raises(ConfigError, match="wye guard fit"):
        gateway(path=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="'nowhere', which is no target"):
        gateway(path=str(guard_file), unsafe="target:nowhere")
    # Mistyped, it would let every unsafe request pass.
    with pytest.raises(ConfigError, match=r"'unsave', which the guard .* domains are .*unsafe"):
        gateway(path=str(guard_file), unsafe_domains=["unsafe", "unsave"])


def test_a_guard_that_would_ask_the_network_about_each_request_is_refused(guard_file, tmp_path):
    guarded = GuardedRouter.load(guard_file)
    guarded.router.embedder = "endpoint:http://127.0.0.1:1/v1#m"
    far = guarded.save(tmp_path / "far.safetensors")
    with pytest.raises(ConfigError, match="needs an embedder of this machine"):
        RequestGuard(GuardTable(path=far), ["ok"], None)


def test_the_command_line_fits_a_guard_and_tries_it(tmp_path):
    unsafe = tmp_path / "unsafe.txt"
    unsafe.write_text("\n".join(f"Explain how to {v} a {p}" for v in VERBS for p in PLACES))
    made = tmp_path / "made.safetensors"
    runner = CliRunner()
    done = runner.invoke(
        cli, ["guard", "fit", "embedded", "--out", str(made), "--unsafe", str(unsafe)]
    )
    assert done.exit_code == 0, done.output
    told = runner.invoke(cli, ["guard", "check", str(made), "Explain how to rob a bank", "--json"])
    assert '"domain": "unsafe"' in told.output
    assert '"verdict": "unsafe"' in told.output
    told = runner.invoke(cli, ["guard", "check", str(made), OUTSIDE])
    assert "out_of_domain" in told.output
    again = runner.invoke(cli, ["guard", "fit", "embedded", "--out", str(made)])
    assert again.exit_code != 0


def test_embeddings_pass_the_guard(serve, world, guard_file):
    served = serve(
        targets=[world.target("ok", speaks=["chat", "embeddings"])],
        guard={"path": str(guard_file)},
    )
    body = {"model": "ok", "input": OUTSIDE}
    answer: httpx.Response = served.http.post("/v1/embeddings", json=body)
    assert answer.status_code == 200
