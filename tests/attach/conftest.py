"""Toy-size models of transformers, built from their configs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2}


def _mixtral(t: Any, **options: Any) -> Any:
    experts = {"num_local_experts": 6, "num_experts_per_tok": 2}
    return t.MixtralForCausalLM(t.MixtralConfig(**{**SIZES, **experts, **options}))


def _olmoe(t: Any, **options: Any) -> Any:
    return t.OlmoeForCausalLM(t.OlmoeConfig(**{**SIZES, **EXPERTS, **options}))


def _qwen3_moe(t: Any, **options: Any) -> Any:
    more = {"head_dim": 8, "moe_intermediate_size": 24, "norm_topk_prob": True}
    return t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**{**SIZES, **EXPERTS, **more, **options}))


def _deepseek_v3(t: Any, **options: Any) -> Any:
    more = {
        "num_key_value_heads": 4,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 24,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_shared_experts": 1,
    }
    model = t.DeepseekV3ForCausalLM(t.DeepseekV3Config(**{**SIZES, **more, **options}))
    for layer in model.model.layers[1:]:
        layer.mlp.gate.e_score_correction_bias.normal_(std=0.3)
    return model


def _gpt2(t: Any, **options: Any) -> Any:
    sizes = {"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    more = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2}
    return t.GPT2LMHeadModel(t.GPT2Config(**{**sizes, **more, **options}))


def _neox(t: Any, **options: Any) -> Any:
    sizes = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
    return t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**{**sizes, **options}))


BUILDERS: dict[str, Callable[..., Any]] = {
    "mixtral": _mixtral,
    "olmoe": _olmoe,
    "olmoe, normalised": lambda t, **o: _olmoe(t, norm_topk_prob=True, **o),
    "qwen3_moe": _qwen3_moe,
    "deepseek_v3": _deepseek_v3,
    "llama": lambda t, **o: t.LlamaForCausalLM(t.LlamaConfig(**{**SIZES, **o})),
    "llama with biases": lambda t, **o: t.LlamaForCausalLM(
        t.LlamaConfig(**{**SIZES, "mlp_bias": True, **o})
    ),
    "qwen2": lambda t, **o: t.Qwen2ForCausalLM(t.Qwen2Config(**{**SIZES, **o})),
    "gemma": lambda t, **o: t.GemmaForCausalLM(t.GemmaConfig(**{**SIZES, "head_dim": 8, **o})),
    "phi3": lambda t, **o: t.Phi3ForCausalLM(t.Phi3Config(**{**SIZES, **o})),
    "gpt2": _gpt2,
    "gpt_neox": _neox,
    "bloom": lambda t, **o: t.BloomForCausalLM(
        t.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4, **o)
    ),
}


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """(name, seed, **config) -> a toy-size model of that kind, in evaluation mode."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()

    def made(name: str, seed: int = 0, **options: Any) -> Any:
        torch.manual_seed(seed)
        return BUILDERS[name](transformers, **options).eval()

    return made


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 64, (3, 10), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask() -> torch.Tensor:
    """Left padding of 4, 1 and 0 tokens."""
    mask = torch.ones(3, 10, dtype=torch.long)
    mask[0, :4] = 0
    mask[1, :1] = 0
    return mask


@pytest.fixture
def labels(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """No padding, and no token that is predicted from padding."""
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 0] = -100
    labels[:, 1:][mask[:, :-1] == 0] = -100
    return labels
