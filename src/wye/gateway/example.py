"""`wye init`: a commented `wye.toml`, with the providers whose keys are in the environment.

Prices are the providers' list prices in USD per million tokens at the time of writing, to start
from: check them against your own contract.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wye.gateway.config import ConfigError


@dataclass(frozen=True)
class Model:
    """A target to offer: prices in USD per million tokens, context in tokens."""

    name: str
    price_in: float
    price_out: float
    context: int
    tags: tuple[str, ...] = ("tools",)


@dataclass(frozen=True)
class Provider:
    """An OpenAI-compatible service, and the environment variable that holds its key."""

    key: str
    base_url: str
    models: tuple[Model, ...]


_SEEING = ("tools", "vision")

PROVIDERS = (
    Provider(
        "OPENAI_API_KEY",
        "https://api.openai.com/v1",
        (
            Model("gpt-4o-mini", 0.15, 0.60, 128_000, _SEEING),
            Model("gpt-4o", 2.50, 10.0, 128_000, _SEEING),
        ),
    ),
    Provider(
        "MISTRAL_API_KEY",
        "https://api.mistral.ai/v1",
        (
            Model("mistral-small-latest", 0.10, 0.30, 128_000),
            Model("mistral-large-latest", 2.00, 6.00, 128_000),
        ),
    ),
    Provider(
        "ANTHROPIC_API_KEY",
        "https://api.anthropic.com/v1",
        (
            Model("claude-3-5-haiku-latest", 0.80, 4.00, 200_000),
            Model("claude-sonnet-4-0", 3.00, 15.0, 200_000, _SEEING),
        ),
    ),
    Provider(
        "GEMINI_API_KEY",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        (
            Model("gemini-2.5-flash", 0.30, 2.50, 1_000_000, _SEEING),
            Model("gemini-2.5-pro", 1.25, 10.0, 1_000_000, _SEEING),
        ),
    ),
    Provider(
        "DEEPSEEK_API_KEY",
        "https://api.deepseek.com/v1",
        (Model("deepseek-chat", 0.27, 1.10, 64_000),),
    ),
    Provider(
        "GROQ_API_KEY",
        "https://api.groq.com/openai/v1",
        (
            Model("llama-3.1-8b-instant", 0.05, 0.08, 128_000),
            Model("llama-3.3-70b-versatile", 0.59, 0.79, 128_000),
        ),
    ),
    Provider(
        "TOGETHER_API_KEY",
        "https://api.together.xyz/v1",
        (Model("meta-llama/Llama-3.3-70B-Instruct-Turbo", 0.88, 0.88, 128_000),),
    ),
    Provider(
        "OPENROUTER_API_KEY",
        "https://openrouter.ai/api/v1",
        (Model("qwen/qwen-2.5-72b-instruct", 0.90, 0.90, 32_000),),
    ),
)

_HEAD = """\
# The gateway's configuration. Start it with: wye serve --config {name}
# Every key that is commented out shows its default.

[server]
# Only this machine can connect. For others set host and the environment variable of a key that they
# must present: host = "0.0.0.0", access_key_env = "WYE_ACCESS_KEY"
host = "127.0.0.1"
port = 8484
# max_body_mb = 10.0
# Gateway processes on this address, about one a core.
# workers = 1

[store]
# Decisions and outcomes (SQLite). Without a path: gateway.db in your user state folder.
# path = "gateway.db"
# The text of each request is kept, so that `wye train --from-log` can learn from it. The default
# keeps it while only this machine can connect, and not otherwise.
# store_prompts = true
# batch_seconds = 0.05

# A router of your own data: wye train --from-log STORE -o router
# Without one, targets go by the `quality` that you state below.
# [router]
# path = "router"

# [breaker]
# failures = 3
# cooldown = 10.0

# A request for the model "wye" gets the first policy, one for "wye/quality" that one.
[policies.balanced]
# Expected quality - cost_weight x expected cost in USD. 50 means: one cent more per answer has to
# bring 0.5 more of quality.
kind = "utility"
cost_weight = 50.0

[policies.quality]
kind = "quality"

# [policies.capped]
# kind = "budget"
# total = 5.0
# horizon = 10000
"""

_TARGET = """
[[targets]]
name = "{name}"
kind = "openai"
base_url = "{base_url}"
api_key_env = "{key}"
price_in_per_mtok = {price_in}
price_out_per_mtok = {price_out}
context = {context}
tags = [{tags}]
# Expected share of good answers, 0 to 1, until a router knows better.
# quality = 0.8
"""

_LOCAL = """
# Any server with the OpenAI API can be a target, for instance Ollama or vLLM on this machine.
# [[targets]]
# name = "local"
# kind = "openai"
# base_url = "http://127.0.0.1:11434/v1"
# model = "llama3.2"
# price_in_per_mtok = 0.0
# price_out_per_mtok = 0.0
# context = 8192
"""

_EMBEDDED = """
# The small model that comes with wye, under two of its strategies.
[[targets]]
name = "direct"
kind = "embedded"

[[targets]]
name = "few_shot"
kind = "embedded"
"""


def example(name: str, environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """The text of a configuration to start from, and the keys that were found.

    Args:
        name: what the file will be called.
        environment: where keys are looked for; only their names are read.
    """
    found = [provider for provider in PROVIDERS if environment.get(provider.key)]
    parts = [_HEAD.format(name=name)]
    parts += [_tables(provider) for provider in found]
    if found:
        missing = [p for p in PROVIDERS if p not in found]
        parts += [_commented(_tables(provider)) for provider in missing[:1]]
    else:
        parts += [_EMBEDDED, *(_commented(_tables(provider)) for provider in PROVIDERS[:2])]
    return "".join([*parts, _LOCAL]), [provider.key for provider in found]


def write_example(path: str | Path, *, force: bool = False) -> list[str]:
    """Write `example` to `path`, whole or not at all; the names of the keys that were found.

    Args:
        force: replace a file that exists.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not force:
        raise ConfigError(f"{path} exists; choose another name, or replace it with --force")
    text, found = example(path.name, os.environ)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error}") from error
    return found


def _tables(provider: Provider) -> str:
    return "".join(
        _TARGET.format(
            name=model.name,
            base_url=provider.base_url,
            key=provider.key,
            price_in=model.price_in,
            price_out=model.price_out,
            context=model.context,
            tags=", ".join(f'"{tag}"' for tag in model.tags),
        )
        for model in provider.models
    )


def _commented(text: str) -> str:
    lines = text.splitlines()
    return "\n".join(f"# {line}" if line and line[0] != "#" else line for line in lines) + "\n"
