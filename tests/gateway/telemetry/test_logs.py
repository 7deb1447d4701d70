"""The log of a real gateway: a line for each request, and no key and no prompt in any line."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import threading

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.config import Config, ConfigError
from wye.gateway.config_file import parse_config
from wye.gateway.money.keys import KeyBook, Limits
from wye.gateway.store import Store
from wye.gateway.telemetry.log_lines import Lines, start_logging
from wye.gateway.telemetry.redaction import PATTERNS, redactor
from wye.gateway.telemetry.settings import LogsTable
from wye.gateway.upstream import Fault, UpstreamError

PROMPT = "the heron nests at Abbotsbury"
UPSTREAM_KEY = "upstream-secret-91f3c77a"
ACCESS_KEY = "front-door-secret-5523"
KINDS = (
    "ok", "no-usage", "500", "401", "429", "400", "context", "garbage", "garbage-stream",
    "no-choices", "reset", "reset-midway", "cut-midway", "hang", "hang-midway",
)  # fmt: skip


def configure(folder, world, logs: str):
    targets = "".join(
        f'[[targets]]\nname = "{kind}"\nbase_url = "{world.base_url}"\napi_key_env = "UP_KEY"\n'
        "price_in_per_mtok = 1.0\nprice_out_per_mtok = 2.0\n"
        "timeouts = { first_byte = 0.3, total = 0.4, between = 0.2 }\n"
        for kind in KINDS
    )
    path = folder / "wye.toml"
    path.write_text(
        f'[server]\naccess_key_env = "WYE_ACCESS"\n{logs}\n[store]\npath = "log.db"\n'
        'store_prompts = false\n[policies.quality]\nkind = "quality"\n'
        f"[retries]\nattempts = 0\n{targets}"
    )
    return path


def everything_goes_wrong(url: str, secret: str) -> list[int]:
    """Every kind of trouble, with an upstream that repeats the prompt and the key it was given."""
    statuses = []
    with httpx.Client(base_url=url, timeout=30, headers={"authorization": f"Bearer {secret}"}) as c:
        for model in ("wye", "nobody", *KINDS):
            for stream in (False, True):
                body = {
                    "model": model, "stream": stream, "echo_key": f"{UPSTREAM_KEY} for {PROMPT}",
                    "messages": [{"role": "user", "content": PROMPT}],
                }  # fmt: skip
                statuses.append(c.post("/v1/chat/completions", json=body).status_code)
        bad = (
            {"model": "wye", "messages": [], "prompt": PROMPT},
            {"model": "wye", "messages": [{"role": PROMPT, "content": PROMPT}]},
            {"model": PROMPT, "messages": [{"role": "user", "content": PROMPT}]},
        )
        statuses += [c.post("/v1/chat/completions", json=b).status_code for b in bad]
        raw = f'{{"model": "wye", "{PROMPT}'.encode()
        statuses.append(c.post("/v1/chat/completions", content=raw).status_code)
        wrong = {"authorization": f"Bearer {ACCESS_KEY}-{PROMPT}"}
        statuses.append(c.post("/v1/chat/completions", json={}, headers=wrong).status_code)
    return statuses


@pytest.mark.parametrize(
    "logs",
    ["", '[logs]\nlevel = "debug"', '[logs]\nlevel = "debug"\nformat = "json"'],
    ids=["default", "text", "json"],
)
def test_no_key_and_no_prompt_in_any_line_whatever_goes_wrong(
    running, tmp_path, world, monkeypatch, logs
):
    monkeypatch.setenv("UP_KEY", UPSTREAM_KEY)
    monkeypatch.setenv("WYE_ACCESS", ACCESS_KEY)
    store = Store(tmp_path / "log.db")
    _, secret = KeyBook(store.engine).add("ada", Limits())
    store.close()
    with running(configure(tmp_path, world, logs)) as (process, url):
        statuses = everything_goes_wrong(url, secret)
        process.terminate()
        output, log = process.communicate(timeout=30)
    assert {200, 400, 401, 404, 503} <= set(statuses)
    for said in (output, log):
        for secret_text in (PROMPT, "Abbotsbury", UPSTREAM_KEY, ACCESS_KEY, secret):
            assert secret_text not in said
    if logs:
        assert len(re.findall("chat/completions", log)) == len(statuses)


def test_a_line_tells_what_a_request_came_to(running, tmp_path, world, monkeypatch):
    monkeypatch.setenv("UP_KEY", UPSTREAM_KEY)
    monkeypatch.setenv("WYE_ACCESS", ACCESS_KEY)
    store = Store(tmp_path / "log.db")
    _, secret = KeyBook(store.engine).add("ada", Limits())
    store.close()
    config = configure(tmp_path, world, '[logs]\nformat = "json"')
    with running(config) as (process, url):
        headers = {"authorization": f"Bearer {secret}"}
        body = {"model": "ok", "messages": [{"role": "user", "content": PROMPT}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)
        body["model"] = "500"
        failed = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)
        process.terminate()
        _, log = process.communicate(timeout=30)
    good, bad = [json.loads(line) for line in log.splitlines() if "wye.access" in line]
    assert good["decision"] == answer.headers["x-wye-decision"]
    assert good["key"] == "ada"
    assert good["target"] == "ok"
    assert good["status"] == 200
    assert good["result"] == "ok"
    assert (good["input_tokens"], good["output_tokens"]) == (11, 6)
    assert good["cost_usd"] == pytest.approx(23e-6)
    assert 0 < good["latency_s"] < 30
    assert bad["decision"] == failed.headers["x-wye-decision"]
    assert bad["status"] == 503
    assert bad["faults"] == ["500:status"]
    assert bad["result"] == "error"


def test_prompts_are_told_where_asked_and_redacted(running, tmp_path, world, monkeypatch):
    monkeypatch.setenv("UP_KEY", UPSTREAM_KEY)
    monkeypatch.setenv("WYE_ACCESS", ACCESS_KEY)
    logs = '[logs]\nformat = "json"\nprompts = true\nredact = ["email", "card"]'
    with running(configure(tmp_path, world, logs)) as (process, url):
        text = "bill ada@example.org on 4111 1111 1111 1111"
        body = {"model": "ok", "messages": [{"role": "user", "content": text}]}
        headers = {"authorization": f"Bearer {ACCESS_KEY}"}
        httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)
        process.terminate()
        _, log = process.communicate(timeout=30)
    (line,) = [json.loads(line) for line in log.splitlines() if "wye.access" in line]
    assert line["prompt"] == "bill [email] on [card]"


def test_a_defect_is_told_with_its_places_and_without_its_words(serve, world, eventually):
    served = serve(targets=[world.target("ok")], logs={"format": "text"})
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(Lines(LogsTable()))
    root = logging.getLogger()
    root.addHandler(handler)

    async def fail(request):
        raise RuntimeError(f"cannot take {request['messages']}")

    deployment = served.gateway.deployments[0]
    deployment.upstream.complete = fail
    try:
        assert served.ask(text=PROMPT).status_code == 500
        eventually(lambda: "RuntimeError" in log.getvalue())
    finally:
        root.removeHandler(handler)
    assert re.search(r"test_logs\.py:\d+ in fail", log.getvalue())
    assert "heron" not in log.getvalue()


def test_texts_in_the_store_are_redacted_where_asked(serve, world):
    served = serve(
        targets=[world.target("ok"), world.target("500")],
        logs={"redact": ["email"], "redact_store": True},
    )
    made = served.decision(served.ask(text="I am ada@example.org", model="ok"))
    assert made["text"] == "I am [email]"
    failed = served.ask(text="hi", model="500", echo_key="ada@example.org")
    assert "ada@example.org" not in json.dumps(served.decision(failed))


def exceptions(marker: str):
    leaves = st.sampled_from(
        [
            lambda: ValueError(marker),
            lambda: KeyError(marker),
            lambda: UpstreamError(marker, fault=Fault.STATUS, status=500),
            lambda: UnicodeDecodeError("utf-8", marker.encode(), 0, 1, "bad"),
            lambda: json.JSONDecodeError("bad", marker, 0),
            lambda: AssertionError({"messages": [marker]}),
            lambda: httpx.RemoteProtocolError(marker),
        ]
    ).map(lambda make: make())

    def grown(inner):
        def chained(pair):
            outer, cause = pair
            outer.__cause__ = cause
            return outer

        return st.tuples(leaves, inner).map(chained) | inner.map(
            lambda one: ExceptionGroup(
                marker, [one if isinstance(one, Exception) else ValueError()]
            )
        )

    return st.recursive(leaves, grown, max_leaves=4)


MARKERS = st.text(st.characters(categories=("L", "N")), min_size=8, max_size=30)


@given(st.data(), MARKERS, st.sampled_from([10, 20, 30, 40, 50]), st.sampled_from(["text", "json"]))
def test_no_exception_tells_what_it_says(data, marker, level, format_):
    marker = f"mark{marker}"
    error = data.draw(exceptions(marker))
    try:
        raise error
    except type(error):
        info = sys.exc_info()
    lines = Lines(LogsTable(format=format_))
    for given_args in ("it failed: %s", (error,)), ("it failed", ()):
        record = logging.LogRecord("wye.x", level, "f.py", 1, *given_args, info)
        line = lines.format(record)
        assert marker not in line
        assert type(error).__name__ in line


def test_a_task_that_nobody_awaited_tells_no_prompt():
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(Lines(LogsTable()))
    logging.getLogger("asyncio").addHandler(handler)

    async def main() -> None:
        async def fail() -> None:
            raise UpstreamError(PROMPT, fault=Fault.CUT)

        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    try:
        asyncio.run(main())
    finally:
        logging.getLogger("asyncio").removeHandler(handler)
    assert "never retrieved" in log.getvalue()
    assert "heron" not in log.getvalue()


def test_a_dying_thread_tells_no_prompt():
    script = f"""
import threading
from wye.gateway.config_file import parse_config
from wye.gateway.telemetry.log_lines import start_logging
start_logging(parse_config('[[targets]]\\nname = "a"\\nbase_url = "http://127.0.0.1:1"'))
def die():
    raise RuntimeError("{PROMPT}")
thread = threading.Thread(target=die, name="worker")
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "worker" in done.stderr
    assert "RuntimeError" in done.stderr
    assert "heron" not in done.stderr


@given(st.text(max_size=200))
def test_a_record_is_one_line_and_json_is_json(text):
    record = logging.LogRecord("wye.access", 20, "f.py", 1, "request", (), None)
    record.wye = {"path": text, "status": 200}
    line = Lines(LogsTable()).format(record)
    assert len(line.splitlines()) == 1
    told = json.loads(Lines(LogsTable(format="json")).format(record))
    assert told["status"] == 200


CARDS = st.lists(st.integers(0, 9), min_size=12, max_size=18)


@given(CARDS)
def test_a_number_with_a_right_check_digit_is_a_card_and_no_other(digits):
    def total(numbers):
        return sum(d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(numbers[::-1]))

    right = next(c for c in range(10) if total([*digits, c]) % 10 == 0)
    for check in range(10):
        number = "".join(map(str, [*digits, check]))
        redacted = PATTERNS["card"](f"pay {number} now")
        assert (redacted == "pay [card] now") == (check == right)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to ada.l+x@mail.example.org!", "write to [email]!"),
        ("call +44 20 7946 0958 or (030) 123-45-67", "call [phone] or [phone]"),
        ("version 3.11.2 of 2026-11-22", "version 3.11.2 of 2026-11-22"),
        ("sk-proj-abcdefghijklmnopqrstuvwx", "[key]"),
        ("authorization: Bearer abcdef0123456789", "authorization: [key]"),
        ("nothing here", "nothing here"),
    ],
)
def test_built_in_patterns(text, left):
    assert redactor(("email", "phone", "card", "key"))(text) == left


def test_a_hook_that_fails_lets_nothing_through(monkeypatch):
    monkeypatch.setattr("wye.gateway.telemetry.settings.oops", lambda _: 1 / 0, raising=False)
    redactor.cache_clear()
    assert redactor("wye.gateway.telemetry.settings:oops")(PROMPT) == "[redaction failed]"


def test_an_unknown_pattern_or_hook_is_a_clear_error():
    target = '[[targets]]\nname = "a"\nbase_url = "http://127.0.0.1:1"\n'
    with pytest.raises(ConfigError, match="'mail', which is no pattern; known are key, email"):
        parse_config(f'[logs]\nredact = ["mail"]\n{target}')
    with pytest.raises(ConfigError, match="cannot be imported"):
        parse_config(f'[logs]\nredact = "no.such:thing"\n{target}')


def test_other_packages_speak_from_warnings_on(monkeypatch):
    # Put back afterwards, as pytest has them.
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    log = io.StringIO()
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    config = Config.model_validate(
        {"targets": [{"name": "a", "base_url": "http://x:1"}], "logs": {"level": "debug"}}
    )
    try:
        listener = start_logging(config, log)
        root.setLevel(logging.DEBUG)
        logging.getLogger("httpcore").debug("headers %s", PROMPT)
        logging.getLogger("httpx").warning("slow")
        logging.getLogger("wye.gateway").debug("fine")
        listener.stop()
    finally:
        root.handlers[:] = kept[0]
        root.setLevel(kept[1])
        logging.getLogger("wye").setLevel(logging.NOTSET)
        logging.getLogger("wye.access").setLevel(logging.NOTSET)
    assert "heron" not in log.getvalue()
    assert "slow" in log.getvalue()
    assert "fine" in log.getvalue()
