"""A small OpenAI-compatible server that plays the outside world, run as a process of its own.

The model's name says how it behaves, so that one process serves every kind of trouble:

    ok, slow-stream, no-usage, no-done   answer, in pieces where asked
    hang, hang-midway, hang-in-body      never answer; stop in the middle of a stream, of a body
    flood, long-stream                   send without an end; 20 MB in many pieces
    say@TEXT                             answer TEXT
    reset, reset-midway                  break the connection
    cut-midway                           end a stream in order, before it is finished
    500, 429, 401, 400, context          refuse
    garbage, garbage-stream, no-choices  answer with something else
    stumble-500, -reset, -hang           fail the first time for their full name, then answer
    stumble-seconds, stumble-date        refuse the first time with 429 and Retry-After
    flaky                                fail while `POST /mend` was not called
    caches                               answer, with usage as a provider with a prompt cache has it
    of `POST /script`                    answer what was given there: status, headers, body or raw,
                                         events

`GET /seen` tells what came: every request's body and whether its client left early.
Run as: python outside_world.py; prints its port.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from email.utils import formatdate
from typing import Any

import outside_surfaces

SURFACES = ("/v1/messages", "/v1/messages/count_tokens", "/v1/responses", "/v1/embeddings")
WORDS = ["The", " answer", " is", " forty", "-two", "."]
seen: list[dict[str, Any]] = []
read_before: set[tuple[str, ...]] = set()
mended = asyncio.Event()
scripts: dict[str, dict[str, Any]] = {}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while await one_request(reader, writer):
            pass
    writer.close()


async def one_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    _, path, _ = first.split(" ")
    if path == "/seen":
        return await reply(writer, 200, seen)
    if path == "/mend":
        mended.set()
        return await reply(writer, 200, {})
    if path == "/script":
        scripts.update(json.loads(raw))
        return await reply(writer, 200, {})
    body = json.loads(raw)
    came = {"traceparent": headers.get("traceparent")}
    came |= {"authorization": headers.get("authorization"), "time": time.monotonic()}
    # What may be nested too deeply for others to read is not told.
    told = body if raw.count(b"{") + raw.count(b"[") < 500 else {"model": body["model"]}
    note = {"body": told, "left": False, **came}
    seen.append(note)
    watch = asyncio.create_task(reader.read(1))
    note["path"], note["headers"] = path, headers
    if body["model"] in scripts:
        work = asyncio.create_task(recite(scripts[body["model"]], writer))
    elif path in SURFACES:
        work = asyncio.create_task(speak(path, body, writer))
    else:
        work = asyncio.create_task(behave(str(body["model"]), body, writer))
    await asyncio.wait({watch, work}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        note["left"] = isinstance(work.exception(), ConnectionError)
        return work.result()
    note["left"] = True
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return False


async def behave(model: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
    kind = model.split("@")[0]
    if kind == "flaky":
        kind = "ok" if mended.is_set() else "500"
    if kind.startswith("stumble-"):
        kind = "ok" if stumbled(model) else kind.removeprefix("stumble-")
    if kind == "hang":
        await asyncio.sleep(3600)
    if kind in ("seconds", "date"):
        wait = "1" if kind == "seconds" else formatdate(time.time() + 2, usegmt=True)
        return await reply(writer, 429, {"error": {}}, f"retry-after: {wait}\r\n")
    if kind == "flood":
        return await flood(writer, "text/event-stream" if body.get("stream") else "text/plain")
    if kind == "hang-in-body":
        head = b"content-type: application/json\r\ncontent-length: 100\r\n\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b'{"choices')
        await asyncio.sleep(3600)
    if kind == "reset":
        return reset(writer)
    if kind in ("500", "401"):
        said = f"trouble; the key was {body.get('echo_key', '')}"
        return await reply(writer, int(kind), {"error": {"message": said}})
    if kind == "429":
        return await reply(writer, 429, {"error": {"message": "slow down"}}, "retry-after: 7\r\n")
    if kind == "400":
        error = {"message": "top_k is unknown", "type": "invalid_request_error", "param": "top_k"}
        return await reply(writer, 400, {"error": {**error, "code": "unknown_parameter"}})
    if kind == "context":
        error = {"message": "too long", "code": "context_length_exceeded"}
        return await reply(writer, 400, {"error": error})
    if kind == "garbage":
        return await reply_raw(writer, 200, b"<html>It works!</html>", "text/html")
    if kind == "no-choices":
        return await reply(writer, 200, {"hello": "world"})
    if body.get("stream"):
        return await stream(kind, body, writer)
    said = model.partition("@")[2] if kind == "say" else "".join(WORDS)
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": said},
                "finish_reason": "stop",
            }
        ],
        "system_fingerprint": "fp_outside",
    }
    if kind != "no-usage":
        answer["usage"] = usage(body)
    return await reply(writer, 200, answer)


def stumbled(model: str) -> bool:
    """Whether a request for this model came before."""
    return sum(note["body"]["model"] == model for note in seen) > 1


def usage(body: dict[str, Any]) -> dict[str, Any]:
    if not str(body["model"]).startswith("caches"):
        return {"prompt_tokens": 11, "completion_tokens": 6, "total_tokens": 17}
    texts = [str(message["content"]) for message in body["messages"]]
    read = 0
    for count in range(1, len(texts) + 1):
        beginning = (body["model"], *texts[:count])
        size = sum(map(len, texts[:count])) // 4
        read = max(read, size - size % 128 if beginning in read_before and size >= 1024 else 0)
        read_before.add(beginning)
    return {
        "prompt_tokens": size,
        "completion_tokens": 6,
        "total_tokens": size + 6,
        "prompt_tokens_details": {"cached_tokens": read},
    }


def piece(body: dict[str, Any], **choice: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-2",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": None, **choice}],
    }


async def stream(kind: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    await event(writer, json.dumps(piece(body, delta={"role": "assistant", "content": ""})))
    for _ in range(200 if kind == "long-stream" else 0):
        await event(writer, json.dumps(piece(body, delta={"content": "x" * 100_000})))
    for number, word in enumerate(WORDS):
        if number == 3 and kind == "hang-midway":
            await asyncio.sleep(3600)
        if number == 3 and kind == "reset-midway":
            return reset(writer)
        if number == 3 and kind == "cut-midway":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        if number == 3 and kind == "garbage-stream":
            await event(writer, "{not json")
        if kind == "slow-stream":
            await asyncio.sleep(0.2)
        await event(writer, json.dumps(piece(body, delta={"content": word})))
    await event(writer, json.dumps(piece(body, delta={}, finish_reason="stop")))
    if (body.get("stream_options") or {}).get("include_usage") and kind != "no-usage":
        await event(writer, json.dumps({**piece(body), "choices": [], "usage": usage(body)}))
    if kind != "no-done":
        await event(writer, "[DONE]")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def recite(script: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
    """Answer as a test has said."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in script.get("headers", {}).items())
    if "raw" in script:
        return await reply_raw(writer, 200, script["raw"].encode(), "application/json", extra)
    if "events" not in script:
        return await reply(writer, script.get("status", 200), script["body"], extra)
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    for data in script["events"]:
        if data == "hang":
            await asyncio.sleep(3600)
        if data == "reset":
            return reset(writer)
        while data == "flood":
            writer.write(b"f4240\r\n" + b"x" * 1_000_000 + b"\r\n")
            await writer.drain()
        said = data if isinstance(data, str) else json.dumps(data)
        name = f"event: {data['type']}\n" if isinstance(data, dict) and "type" in data else ""
        raw = f"{name}data: {said}\n\n".encode()
        writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def flood(writer: asyncio.StreamWriter, kind: str) -> bool:
    """One line that never ends."""
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\ndata: ".encode())
    while True:
        writer.write(b"x" * 1_000_000)
        await writer.drain()


async def speak(path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
    """Answer in another format than chat completions."""
    model = str(body["model"])
    status, answer = outside_surfaces.whole(path, model)
    if not body.get("stream") or status != 200:
        return await reply(writer, status, answer)
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    for piece in outside_surfaces.pieces(path, model):
        raw = outside_surfaces.wire(piece, model)
        # In two chunks each, so that an event does not come in one.
        for part in (raw[: len(raw) // 2], raw[len(raw) // 2 :]):
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def event(writer: asyncio.StreamWriter, data: str) -> None:
    raw = f"data: {data}\n\n".encode()
    writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
    await writer.drain()


def reset(writer: asyncio.StreamWriter) -> bool:
    writer.transport.abort()
    return False


async def reply(writer: asyncio.StreamWriter, status: int, value: Any, extra: str = "") -> bool:
    return await reply_raw(writer, status, json.dumps(value).encode(), "application/json", extra)


async def reply_raw(
    writer: asyncio.StreamWriter, status: int, raw: bytes, kind: str, extra: str = ""
) -> bool:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(raw)}\r\n{extra}"
    writer.write(head.encode() + b"\r\n" + raw)
    await writer.drain()
    return True


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
