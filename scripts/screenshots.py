"""Make the pictures of docs/images from the real thing.

A real gateway serves a store with a month of made-up traffic (`bench/gateway/history.py`: decisions
by the gateway's own code, the same for the same seed); Chromium then looks at its pages.
`frontier.png` is the report of the default router on the part of the embedded set that it did not
see.

Usage: python scripts/screenshots.py [--decisions N] [--seed S] [--only frontier|dashboard]

Needs a Chromium in PATH and the dependency group `test`.
"""

import argparse
import io
import os
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

import uvicorn

from wye.data import load_embedded
from wye.gateway.app import create_app
from wye.gateway.records import AlarmRecord, new_id
from wye.gateway.store import Store

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench" / "gateway"))

from history import config_of, write_history  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = ROOT / "docs" / "images"
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
WIDTH, HEIGHT = 1400, 900
DAYS = 30.0
PROMPTS = (
    ("easy", "What is the capital of Mongolia?", "Every target knows it: the cheapest will do."),
    ("hard", "Prove that there are infinitely many primes of the form 4k + 3.", "Few targets can."),
    ("code", "Write a SQL query for the second highest salary of each department.", "Most can."),
)
# Nothing is sent: the playground shows what would be chosen.
BASE_URL = "https://api.example.com/v1"


@contextmanager
def gateway(decisions: int, seed: int, folder: Path) -> Iterator[str]:
    """A gateway with a past; its address."""
    path, until = folder / "gateway.db", time.time()
    config = config_of(str(path), BASE_URL)
    store = Store(path)
    write_history(store.engine, config, decisions, days=DAYS, until=until, seed=seed)
    store.add(
        AlarmRecord(
            new_id(),
            until - 7200,
            "answers",
            "medium",
            "since about request 310 the answers of medium are a third shorter than before; "
            "judge some of them, and ask its provider",
            until - 9000,
            {"seen": 412, "false_alarm_every": 10000.0, "evidence": 1.4},
        )
    )
    store.close()
    prompts = tuple({"kind": kind, "text": text, "why": why} for kind, text, why in PROMPTS)
    app = create_app(config, playground=prompts)
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


def take_dashboard(url: str) -> None:
    """The pages, one decision in full, and the overview in the dark."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        take(page, url, "overview?window=30d", "dashboard.png")
        take(page, url, "decisions", "decisions.png", whole=False)
        take(page, url, "targets", "targets.png")
        take(page, url, "keys", "keys.png", whole=False, height=560)
        show(page, url, "playground")
        page.get_by_role("button", name=PROMPTS[1][1]).click()
        page.get_by_text("Would go to").wait_for()
        page.wait_for_timeout(300)
        write(IMAGES / "playground.png", picture(page, whole=False, height=560))
        show(page, url, "decisions?policy=utility&status=ok")
        page.set_viewport_size({"width": WIDTH, "height": 1180})
        page.locator("#decisions .open").nth(1).click()
        page.get_by_label("Policy to replay under").select_option("thrifty")
        page.locator(".replayed .went").wait_for()
        write(IMAGES / "decision.png", shrink(page.locator("#detail").screenshot()))
        page.close()
        viewport = {"width": WIDTH, "height": HEIGHT}
        page = browser.new_page(viewport=viewport, color_scheme="dark")
        take(page, url, "overview?window=30d", "dashboard-dark.png")
        page.close()


def show(page: "Page", url: str, place: str) -> None:
    """Open a page and wait until it is whole."""
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.goto(f"{url}/#/{place}")
    page.locator("#page:not([hidden])").wait_for()
    page.wait_for_timeout(400)
    page.evaluate("scrollTo(0, 0); document.activeElement.blur()")


def take(
    page: "Page", url: str, place: str, name: str, *, whole: bool = True, height: int = HEIGHT
) -> None:
    """A picture of a page."""
    show(page, url, place)
    write(IMAGES / name, picture(page, whole=whole, height=height))


def picture(page: "Page", *, whole: bool, height: int) -> bytes:
    """The page in full, or its first `height` pixels."""
    if not whole:
        page.set_viewport_size({"width": WIDTH, "height": height})
    return shrink(page.screenshot(full_page=whole))


def draw_frontier() -> None:
    """The report of the default router on the questions that it has not seen."""
    from wye.bench.frontier import save
    from wye.gateway.first_start import embedded_router
    from wye.query.report import evaluate

    data = load_embedded()
    report = evaluate(embedded_router(data, print).router, data.part("test"))
    print("frontier:", save(report, IMAGES / "frontier.png"))


def shrink(png: bytes) -> bytes:
    """The picture in 256 colours, which a page of text and lines does not show."""
    from PIL import Image

    stream = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    small = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)
    print(f"{path}: {len(content) / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=6000, help="how long a past")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("frontier", "dashboard"))
    options = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    if options.only != "dashboard":
        draw_frontier()
    if options.only != "frontier":
        with (
            tempfile.TemporaryDirectory() as folder,
            gateway(options.decisions, options.seed, Path(folder)) as url,
        ):
            take_dashboard(url)


if __name__ == "__main__":
    main()
