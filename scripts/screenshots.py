"""Make the pictures of docs/images from the real thing.

A real gateway serves the embedded pool, answers real questions and has some of its answers graded;
Chromium then takes `dashboard.png`, `dashboard-dark.png` and `decision.png`. `frontier.png` is the
report of the default router on the part of the embedded set that it did not see.

Usage: python scripts/screenshots.py [--questions N] [--seed S] [--only frontier|dashboard]

Needs a Chromium in PATH, the extra `local`, and the dependency groups `test` and `dataset`.
"""

import argparse
import io
import os
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
from rich.progress import track

from wye.data import RoutingData, load_embedded
from wye.gateway.app import create_app
from wye.gateway.config import StoreTable
from wye.gateway.first_start import Ready, embedded_config, embedded_router

sys.path.insert(0, str(Path(__file__).parent))

from embedded_set.kinds import KINDS, draw
from embedded_set.question import grade

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTH, HEIGHT = 1400, 1330
MODELS = ("wye", "wye", "wye", "wye/quality", "wye", "wye/thrifty")


@contextmanager
def gateway(data: RoutingData, ready: Ready, folder: Path) -> Iterator[str]:
    """The gateway that `wye up` serves, with a store of its own; its address."""
    config = embedded_config(data)
    config = config.model_copy(update={"store": StoreTable(path=folder / "gateway.db")})
    app = create_app(config, ready.router, frontier=ready.frontier, playground=ready.playground)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                if not thread.is_alive():
                    sys.exit("the gateway did not start; what it logged above says why")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def send_questions(url: str, number: int, seed: int) -> None:
    """Ask `number` questions of all kinds, and grade every second answer by program."""
    rng = random.Random(seed)
    each = -(-number // len(KINDS))
    # Another seed than that of the embedded set: questions that the router was not trained on.
    questions = [q for kind in KINDS for q in draw(kind, each, 0, seed=10_000 + seed).questions]
    rng.shuffle(questions)
    with httpx.Client(base_url=url, timeout=300) as client:
        for k, question in enumerate(track(questions[:number], "asking")):
            body = {
                "model": MODELS[k % len(MODELS)],
                "messages": [{"role": "user", "content": question.text}],
            }
            response = client.post("/v1/chat/completions", json=body).raise_for_status()
            if k % 2:
                continue
            answer = response.json()["choices"][0]["message"]["content"]
            judgement = {
                "decision": response.headers["x-wye-decision"],
                "quality": float(grade(answer, question)),
            }
            client.post("/v1/feedback", json=judgement).raise_for_status()


@contextmanager
def chromium() -> Iterator[Any]:
    """The machine's own Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    found = [path for name in CHROMIUM_NAMES if (path := shutil.which(name))]
    if not found:
        sys.exit(f"no Chromium in PATH (looked for {', '.join(CHROMIUM_NAMES)}); install one")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found[0], args=list(CHROMIUM_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def try_a_prompt(page: "Page") -> None:
    """Ask the first suggested prompt, as a person would."""
    page.locator("#suggestions button").first.click()
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("Was it right?").wait_for(timeout=120_000)
    page.mouse.move(0, 0)


def take_dashboard(url: str) -> None:
    """The dashboard in light and dark, and one decision in full."""
    with chromium() as browser:
        for scheme, name in (("light", "dashboard.png"), ("dark", "dashboard-dark.png")):
            viewport = {"width": WIDTH, "height": HEIGHT}
            page = browser.new_page(viewport=viewport, color_scheme=scheme)
            page.goto(url)
            page.locator("svg.frontier").wait_for()
            try_a_prompt(page)
            with page.expect_response("**/api/summary"):
                pass
            page.wait_for_timeout(500)
            page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
            write(IMAGES / name, shrink(page.screenshot()))
            if scheme == "light":
                page.set_viewport_size({"width": WIDTH, "height": 900})
                page.get_by_role("link", name="Open the decision").click()
                page.get_by_role("heading", name="Candidates").wait_for()
                page.locator("#detail").evaluate("panel => panel.focus()")
                write(IMAGES / "decision.png", shrink(page.locator("#detail").screenshot()))
            page.close()


def draw_frontier(data: RoutingData, ready: Ready) -> None:
    """The report of the default router on the questions that it has not seen."""
    from wye.bench.frontier import save
    from wye.query.report import evaluate

    print("frontier:", save(evaluate(ready.router, data.part("test")), IMAGES / "frontier.png"))


def shrink(png: bytes) -> bytes:
    """The picture in 256 colours, which a page of text and lines does not show."""
    from PIL import Image

    stream = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)
    print(f"{path}: {len(content) / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=144, help="how many to ask")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("frontier", "dashboard"))
    options = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    data = load_embedded()
    ready = embedded_router(data, print)
    if options.only != "dashboard":
        draw_frontier(data, ready)
    if options.only != "frontier":
        with tempfile.TemporaryDirectory() as folder, gateway(data, ready, Path(folder)) as url:
            send_questions(url, options.questions, options.seed)
            take_dashboard(url)


if __name__ == "__main__":
    main()
