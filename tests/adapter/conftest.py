"""Tiny Llamas with random weights, and adapters that do something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("transformers")

VOCABULARY = 50


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def llama() -> Callable[..., Any]:
    """Makes a model of 2 layers; the same one at every call."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(n_layers: int = 2) -> Any:
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=n_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            pad_token_id=0,
            eos_token_id=None,
            bos_token_id=None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return LlamaForCausalLM(config).eval()

    return make


@pytest.fixture
def ids() -> Any:
    return torch.randint(1, VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def stir() -> Callable[..., None]:
    """Gives a module's A and B random values, so that it changes what the model says."""
    from wye.adapter.lora_modules import module_tensors

    def make(model: Any, name: str, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in module_tensors(model, name).values():
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))

    return make
