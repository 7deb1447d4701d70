"""Bad requests on every surface: refused in the surface's own shape, and nothing breaks."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wye.gateway.config import Config
from wye.gateway.surfaces import SURFACES

USER = [{"role": "user", "content": "hi"}]
GOOD = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/messages": {"messages": USER, "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": USER},
    "/v1/responses": {"input": "hi"},
    "/v1/embeddings": {"input": "hi"},
}
PATHS = list(GOOD)
ASKED = {path: "messages" if "messages" in body else "input" for path, body in GOOD.items()}


@pytest.fixture(scope="module", params=[False], ids=["passing"])
def served(request, serving, world, tmp_path_factory):
    """One gateway for the whole module; with a parameter that is true it translates."""
    root = world.base_url.removesuffix("/v1")
    rest = {"tags": ["tools"], "translate": request.param}
    values = {
        "targets": [
            world.target("ok", speaks=["chat", "responses", "embeddings"], **rest),
            world.target("claude", model="ok@bad", kind="anthropic", base_url=root, **rest),
        ],
        "policies": {"quality": {"kind": "quality"}},
        "store": {"path": str(tmp_path_factory.mktemp("bad") / "gateway.db")},
    }
    started = serving(Config.model_validate(values))
    yield started
    started.stop()


def said(answer, path, status, kind="invalid_request_error"):
    """The words of an error, which has the surface's shape."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    if path.startswith("/v1/messages"):
        assert set(body) == {"type", "error"}
        assert body["type"] == "error"
        assert set(body["error"]) == {"type", "message"}
    else:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["type"] == kind
    return body["error"]["message"]


def test_every_surface_is_here():
    assert {surface.path for surface in SURFACES.values()} <= set(PATHS)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON: "),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"model": "wye", "messages": "\xff"}', "not UTF-8 (byte 30 is 0xff)"),
        (b'{"model": "\xed\xa0\xbd"}', "not UTF-8"),
        ('{"model": "wye"}'.encode("utf-16"), "not UTF-8"),
        (b"[]", "a JSON array; expected an object"),
        (b"null", "a JSON null"),
        (b'{"temperature": NaN}', "NaN is no JSON number"),
        (b'{"temperature": -Infinity}', "-Infinity is no JSON number"),
        (b'{"temperature": 1e999}', "1e999 is too large"),
        (b'{"n": ' + b"9" * 5000 + b"}", "a number that cannot be used"),
        (b'{"a": "\\ud83d"}', "half a surrogate pair"),
        (b'{"a": "\\udc00\\ud800"}', "half a surrogate pair"),
        (b'{"model": "wye", "model": "ok"}', "the field 'model' twice"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
    ids=lambda value: repr(value)[:24] if isinstance(value, bytes) else "",
)
def test_a_body_that_is_no_json_object_is_a_400(served, path, raw, words):
    assert words in said(served.http.post(path, content=raw), path, 400)


@pytest.mark.parametrize("path", PATHS)
def test_a_model_that_is_missing_or_unknown_is_named(served, path):
    for model, status, kind, words in [
        (None, 400, "invalid_request_error", "model is null"),
        ("", 400, "invalid_request_error", 'model is ""'),
        (["ok"], 400, "invalid_request_error", "model is array"),
        ("who", 404, "not_found_error", "there is no model 'who'; known are wye"),
        ("wye/who", 404, "not_found_error", "there is no model 'wye/who'"),
        ("wye\x00", 404, "not_found_error", "there is no model 'wye\\x00'"),
    ]:
        answer = served.http.post(path, json={**GOOD[path], "model": model})
        if not path.startswith("/v1/messages"):
            kind = "invalid_request_error"
        assert words in said(answer, path, status, kind)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_asked_is_a_400_that_names_the_field(served, path):
    for empty in (None, [], {}, 7, [None], [[]]):
        body = {**GOOD[path], "model": "wye", ASKED[path]: empty}
        assert ASKED[path] in said(served.http.post(path, json=body), path, 400)


@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_key_is_a_401(serve, world, monkeypatch, path):
    monkeypatch.setenv("WYE_TEST_ACCESS", "right")
    served = serve(targets=[world.target("ok")], server={"access_key_env": "WYE_TEST_ACCESS"})
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"x-api-key": "wrong"},
        {"authorization": "Basic !!!"},
        {"authorization": b"Bearer \xff\xfe"},
    ):
        answer = served.http.post(path, json={**GOOD[path], "model": "wye"}, headers=headers)
        assert "key" in said(answer, path, 401, "authentication_error")


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_a_body_of_50_mb_is_a_413(served, path, declared):
    start = json.dumps({**GOOD[path], "model": "wye", "padding": ""})[:-2].encode()
    size = 50 * 1024 * 1024

    def pieces():
        yield start
        for _ in range(size // 65536):
            yield b"x" * 65536
        yield b'"}'

    content = b"".join(pieces()) if declared else pieces()
    kind = "request_too_large" if path.startswith("/v1/messages") else "invalid_request_error"
    answer = served.http.post(path, content=content)
    assert "server.max_body_mb" in said(answer, path, 413, kind)
    assert served.http.post(path, json={**GOOD[path], "model": "wye"}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_a_method_that_a_surface_does_not_have_is_a_405(served, path):
    assert "Method Not Allowed" in said(served.http.get(path), path, 405)


@pytest.mark.parametrize("levels", [90, 400, 501, 944, 950, 960, 975, 990])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("served", [True], ids=["translating"], indirect=True)
def test_nesting_that_can_be_read_can_be_answered(served, path, levels):
    nested = "{" + '"a":{' * levels + "}" * levels + "}"
    for model in ("wye", "ok", "claude"):
        body = json.dumps({**GOOD[path], "model": model, "tools": "DEEP"})
        tool = '{"type":"function","name":"f","function":{"name":"f","parameters":DEEP},"x":1}'
        for deep in (nested, f"[{tool.replace('DEEP', nested)}]"):
            answer = served.http.post(path, content=body.replace('"DEEP"', deep).encode())
            assert answer.status_code in (200, 400), answer.text
    assert set(served.http.get("/healthz").json()["targets"].values()) == {"closed"}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(PATHS), st.binary(max_size=40), st.integers(0, 200))
def test_bytes_put_anywhere_into_a_good_request_never_break_the_gateway(served, path, shred, place):
    raw = json.dumps({**GOOD[path], "model": "wye"}).encode()
    place %= len(raw) + 1
    answer = served.http.post(path, content=raw[:place] + shred + raw[place:])
    assert answer.status_code in (200, 400, 404)
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
