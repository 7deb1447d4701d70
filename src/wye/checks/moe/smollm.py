"""SmolLM2-135M-Instruct in PyTorch: a real pretrained decoder on every machine that has wye.

30 layers of width 576, 9 heads in 3 groups of keys and values, gated feed-forwards of 1536. The
weights are those of the embedded model (4-bit, read back to float32), the tokenizer comes with
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wye.checks.base import CheckError
from wye.errors import WyeError


@lru_cache(maxsize=1)
def weights_file() -> Path:
    """Where the weights are.

    Raises:
        CheckError: they are not on this machine; the message says how to bring them.
    """
    from wye.gateway.pool.weights import locate

    try:
        return locate()
    except WyeError as error:
        raise CheckError(f"this check runs on SmolLM2-135M: {error}") from error


def load_smollm() -> nn.Module:
    """The model in float32 and evaluation mode, without gradients; a new one at every call.

    Raises:
        CheckError: transformers, gguf or the weights are missing.
    """
    file = weights_file()
    with _quiet() as transformers:
        model: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
    return model.eval().requires_grad_(False)


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    file = weights_file()
    with _quiet() as transformers:
        return transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def tokens_of(text: str, n: int | None = None) -> Tensor:
    """The first `n` ids of `text`, int64 `[n]`; all of them when not given.

    Raises:
        CheckError: the text has fewer.
    """
    ids = _tokenizer()(text, add_special_tokens=False, verbose=False)["input_ids"]
    if n is not None and len(ids) < n:
        raise CheckError(f"the text has {len(ids)} tokens and {n} are needed: give more text")
    return torch.tensor(ids[:n])


@contextmanager
def _quiet() -> Iterator[Any]:
    """The transformers library, without its progress bars."""
    for name in ("accelerate", "gguf", "transformers"):
        if find_spec(name) is None:
            raise CheckError(
                f"this check runs on SmolLM2-135M and {name} is not installed; install it with: "
                'pip install "wye[transformers]"'
            )
    transformers: Any = import_module("transformers")
    # Its reader of GGUF files draws bars of its own, which no setting turns off.
    with redirect_stderr(StringIO()):
        yield transformers
