"""Slices and heads of Hugging Face decoders: equal to the stock layers, and fit to generate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wye.moe.base import MoEError, make_context, routed_layers
from wye.moe.models.compacted_attention import compacted_attention
from wye.moe.models.pregate import Pregate
from wye.moe.models.rotary import rotary_turns
from wye.moe.parts.thresholds import chosen_where
from wye.moe.read_me import extract_experts, refactor
from wye.moe.surgery.decompose_attention import decompose_attention

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch


@pytest.fixture
def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return transformers.LlamaForCausalLM(config).eval()


def test_all_heads_are_the_attention_with_grouped_keys_and_values(llama: Any) -> None:
    seen: dict[str, torch.Tensor] = {}
    attention = llama.model.layers[1].self_attn

    def keep(_: Any, positional: Any, named: Any, out: Any) -> None:
        seen.update(x=named["hidden_states"], y=out[0])

    attention.register_forward_hook(keep, with_kwargs=True)
    llama(torch.randint(0, 40, (2, 9)))
    heads = decompose_attention(attention)
    assert (heads.n_heads, heads.n_groups, heads.head_width) == (6, 2, 4)
    everyone = torch.ones(18, 6)
    got = compacted_attention(
        seen["x"].flatten(0, 1),
        heads,
        chosen_where(everyone > 0, everyone),
        make_context(seen["x"]),
        turns=rotary_turns(torch.arange(9), 4),
    )
    assert torch.allclose(got.view(2, 9, 24), seen["y"], atol=1e-5)


def test_a_refactored_decoder_generates_the_same_with_and_without_its_cache(llama: Any) -> None:
    domains = {f"{m}": [torch.randint(10 * m, 10 * m + 20, (2, 12))] for m in range(3)}
    extraction = extract_experts(llama, domains)
    routed = refactor(llama, extraction, Pregate(24, 3, vocabulary=40, inner=8))
    prompt = torch.randint(0, 40, (2, 5))
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = llama.generate(prompt, use_cache=True, **options)
    plain = llama.generate(prompt, use_cache=False, **options)
    assert cached.shape == (2, 13)
    assert torch.equal(cached, plain)
    assert len({int(t) for t in routed.pregate.routes(cached).argmax(dim=2).flatten()}) > 1
    routed.remove()
    assert not routed_layers(llama)


def test_a_cache_of_tokens_that_were_never_routed_is_refused(llama: Any) -> None:
    before = llama(torch.randint(0, 40, (1, 4)), use_cache=True).past_key_values
    extraction = extract_experts(llama, {"a": [torch.randint(0, 40, (1, 8))]})
    refactor(llama, extraction, Pregate(24, 1, vocabulary=40, inner=8))
    with pytest.raises(MoEError, match="the cache holds 4 tokens"):
        llama(torch.zeros(1, 1, dtype=torch.int64), past_key_values=before)
    with pytest.raises(MoEError, match="reads token ids"):
        llama(inputs_embeds=torch.zeros(1, 2, 24))
