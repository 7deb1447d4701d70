"""Modules chosen by token: exact limits, isolation of tasks, invariances, files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from wye.adapter import AdapterError, DynamicRouting  # noqa: E402
from wye.adapter.lora_modules import lora_layers, module_tensors  # noqa: E402
from wye.adapter.routed_linear import affinities, standardised  # noqa: E402
from wye.testing import (  # noqa: E402
    check_batch_invariant,
    check_causal,
    check_padding,
    check_plan,
)

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`"),
    pytest.mark.filterwarnings("ignore:Adapter one was active"),
]


def point(routed: DynamicRouting, name: str, seed: int) -> None:
    """Give a module random vectors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora_layers(routed.inner, name).values():
            gate = layer.lora_gate[name]
            gate.copy_(torch.randn(gate.shape, generator=generator))


@pytest.fixture
def routed(llama: Any, stir: Any) -> DynamicRouting:
    model = DynamicRouting(llama(), k=2)
    for seed, name in enumerate(("one", "two", "three")):
        model.add(name, rank=2)
        stir(model.inner, name, seed)
        point(model, name, seed)
    return model


def loss_on(routed: DynamicRouting, ids: Any, shift: int) -> Any:
    def loss(step: int) -> Any:
        logits = routed(ids).logits.flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, ((ids + shift) % 50).flatten())

    return loss


def test_one_module_of_k_one_without_null_is_that_module(llama: Any, stir: Any, ids: Any) -> None:
    routed = DynamicRouting(llama(), k=1, null=False)
    routed.add("one", rank=2)
    stir(routed.inner, "one")
    point(routed, "one", 0)
    chosen = routed(ids).logits
    with routed.alone("one"):
        torch.testing.assert_close(chosen, routed(ids).logits, atol=1e-6, rtol=0)
    layer = next(iter(lora_layers(routed.inner).values()))
    u = torch.randn(2, 3, 32)
    a, b = layer.lora_A["one"].weight, layer.lora_B["one"].weight
    want = u @ layer.base_layer.weight.T + layer.scaling["one"] * u @ a.T @ b.T
    torch.testing.assert_close(layer(u), want)


def test_modules_with_b_at_zero_leave_the_base(llama: Any, ids: Any) -> None:
    routed = DynamicRouting(llama())
    for seed, name in enumerate(("one", "two")):
        routed.add(name, rank=2)
        point(routed, name, seed)
    assert torch.equal(routed(ids).logits, llama()(ids).logits)
    assert sum(len(plan) for plan in routed.trace.values())


def test_training_a_task_leaves_the_others_bit_for_bit(routed: DynamicRouting, ids: Any) -> None:
    def kept() -> dict[str, Any]:
        return {k: v.clone() for k, v in routed.inner.state_dict().items() if ".two" not in k}

    before = kept()
    own = {k: v.clone() for k, v in module_tensors(routed.inner, "two").items()}
    gates = [v.lora_gate["two"].clone() for v in lora_layers(routed.inner).values()]
    losses = routed.train_module("two", loss_on(routed, ids, 1), steps=5, rate=1e-2)
    assert losses[-1] < losses[0]
    now = module_tensors(routed.inner, "two")
    assert not any(torch.equal(own[k], now[k]) for k in own)
    after_module = [v.lora_gate["two"] for v in lora_layers(routed.inner).values()]
    assert all(torch.equal(a, b) for a, b in zip(gates, after_module, strict=True))
    trained = {k: v.clone() for k, v in now.items()}
    routed.train_gate("two", loss_on(routed, ids, 1), steps=3)
    after = module_tensors(routed.inner, "two")
    assert all(torch.equal(trained[k], after[k]) for k in trained)
    last = [v.lora_gate["two"] for v in lora_layers(routed.inner).values()]
    assert not any(torch.equal(a, b) for a, b in zip(gates, last, strict=True))
    changed = [k for k, v in kept().items() if not torch.equal(v, before[k])]
    assert changed == []
    assert not any(p.requires_grad for p in routed.inner.base_model.embed_tokens.parameters())


def test_scores_do_not_move_when_the_input_is_scaled_or_shifted() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(5, 16, generator=generator) * 3.0
    v = torch.randn(4, 16, generator=generator)
    base = affinities(u, v)
    torch.testing.assert_close(affinities(7.0 * u, v), base, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(affinities(u + 2.5, v), base, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(affinities(u, 1e-4 * v), base, atol=1e-4, rtol=1e-4)
    naive = torch.stack([
        torch.stack([
            ((a - a.mean()) / a.std(correction=0) * (b - b.mean()) / b.std(correction=0)).sum()
            / math.sqrt(16)
            for b in v
        ])
        for a in u
    ])  # fmt: skip
    torch.testing.assert_close(base, naive, atol=1e-4, rtol=1e-4)
    assert bool((standardised(torch.ones(3, 16)) == 0).all())
    assert bool((affinities(u, torch.full((1, 16), 2.0)).abs() < 1e-4).all())


def test_a_gate_at_zero_halves_the_update(llama: Any, stir: Any, ids: Any) -> None:
    routed = DynamicRouting(llama())
    routed.add("one", rank=2)
    stir(routed.inner, "one")
    layer = next(iter(lora_layers(routed.inner).values()))
    u = torch.randn(2, 3, 32)
    base, whole = layer.base_layer(u), layer.update("one", u)
    with routed.routing.using("gate", "one"):
        torch.testing.assert_close(layer(u), base + 0.5 * whole)


@pytest.mark.parametrize(
    ("k", "null", "renormalise"),
    [(1, True, False), (2, False, True), (3, True, True), (2, True, False)],
)
def test_routing_equals_a_loop_over_tokens(
    routed: DynamicRouting, k: int, null: bool, renormalise: bool
) -> None:
    routing = routed.routing
    routing.k, routing.null, routing.renormalise = k, null, renormalise
    layer = list(lora_layers(routed.inner).values())[3]
    u = torch.randn(7, layer.in_features, generator=torch.Generator().manual_seed(3))
    names = list(routed.modules_present)
    want = []
    for token in u:
        alpha = affinities(token[None], torch.stack([layer.lora_gate[n] for n in names]))[0]
        alpha = torch.cat([alpha, torch.zeros(1)]) if null else alpha
        weight = alpha.softmax(0)
        chosen = weight.topk(k).indices.tolist()
        total = weight[chosen].sum() if renormalise else 1.0
        y = layer.base_layer(token)
        for t in chosen:
            if t < len(names):
                y = y + weight[t] / total * layer.update(names[t], token)
        want.append(y)
    got = layer(u[None])[0]
    torch.testing.assert_close(got, torch.stack(want), atol=1e-5, rtol=1e-5)
    plan = layer.plan(u, routing)
    check_plan(plan)
    assert plan.n_targets == 4


def test_a_module_whose_vectors_were_never_trained_sleeps(
    routed: DynamicRouting, stir: Any, ids: Any
) -> None:
    before = routed(ids).logits
    routed.add("sleeper", rank=2)
    stir(routed.inner, "sleeper", 9)
    assert routed.untrained == ("sleeper",)
    assert torch.equal(routed(ids).logits, before)
    place = next(iter(routed.trace))
    assert routed.load_of(place)[3] == 0


def test_a_removed_module_leaves_the_others_as_they_were(
    routed: DynamicRouting, llama: Any, stir: Any, ids: Any
) -> None:
    before = routed(ids).logits
    routed.add("guest", rank=2)
    stir(routed.inner, "guest", 9)
    point(routed, "guest", 9)
    assert not torch.equal(routed(ids).logits, before)
    routed.remove("guest")
    assert torch.equal(routed(ids).logits, before)
    for name in ("one", "two", "three"):
        routed.remove(name)
    assert torch.equal(routed(ids).logits, llama()(ids).logits)


def test_padding_is_no_part_of_the_load(routed: DynamicRouting, ids: Any) -> None:
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    mask[2, :7] = 0
    routed(input_ids=ids, attention_mask=mask)
    for place, plan in routed.trace.items():
        assert plan.n_sources == int(mask.sum())
        assert routed.load_of(place).sum() == 2 * int(mask.sum())
    assert all(0.0 <= share <= 1.0 for share in routed.null_share().values())


def test_the_declared_contracts_hold(routed: DynamicRouting, ids: Any) -> None:
    assert routed.contracts.causal
    assert routed.contracts.batch_invariant
    assert routed.contracts.padding
    check_causal(routed, ids)
    check_batch_invariant(routed, ids)

    def with_mask(x: Any, mask: Any = None) -> Any:
        positions = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
        return routed(input_ids=x, attention_mask=mask.long(), position_ids=positions)

    check_padding(with_mask, ids)


def test_generation_with_a_cache_equals_generation_without(
    routed: DynamicRouting, ids: Any
) -> None:
    settings = {"max_new_tokens": 5, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    with_cache = routed.generate(ids, use_cache=True, **settings)
    without = routed.generate(ids, use_cache=False, **settings)
    assert torch.equal(with_cache, without)


def test_saved_and_loaded_modules_answer_the_same(
    routed: DynamicRouting, llama: Any, ids: Any, tmp_path: Path
) -> None:
    before = routed(ids).logits
    routed.save(tmp_path)
    again = DynamicRouting.load(llama(), tmp_path)
    assert again.targets == ("one", "two", "three", "null")
    assert torch.equal(again(ids).logits, before)
    # One module alone, into another registry.
    other = DynamicRouting(llama())
    other.read("renamed", tmp_path / "two")
    assert other.untrained == ()
    with other.alone("renamed"):
        borrowed = other(ids).logits
    with routed.alone("two"):
        torch.testing.assert_close(borrowed, routed(ids).logits)


def test_an_adapter_of_plain_peft_loads_unchanged(
    llama: Any, stir: Any, ids: Any, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    users = get_peft_model(llama(), LoraConfig(r=3, target_modules=["v_proj", "down_proj"]))
    stir(users.get_base_model(), "default")
    users.save_pretrained(str(tmp_path))
    routed = DynamicRouting(llama())
    routed.read("users", tmp_path)
    assert routed.untrained == ("users",)
    with routed.alone("users"):
        torch.testing.assert_close(routed(ids).logits, users(ids).logits, atol=1e-6, rtol=0)
    routed.train_gate("users", loss_on(routed, ids, 1), steps=2)
    assert routed.untrained == ()


def test_equal_weights_add_the_mean_of_the_updates(routed: DynamicRouting) -> None:
    layer = next(iter(lora_layers(routed.inner).values()))
    u = torch.randn(2, 3, 32)
    want = layer.base_layer(u) + sum(layer.update(n, u) for n in routed.modules_present) / 3
    with routed.mixed():
        torch.testing.assert_close(layer(u), want)


def test_bad_input_says_what_to_do(routed: DynamicRouting, llama: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    with pytest.raises(AdapterError, match="there already"):
        routed.add("one")
    with pytest.raises(AdapterError, match="no name for a module"):
        routed.add("a")
    with pytest.raises(AdapterError, match="no module 'nobody'"):
        routed.remove("nobody")
    with pytest.raises(AdapterError, match="cannot be read as a LoRA adapter"):
        routed.read("files", tmp_path)
    with pytest.raises(AdapterError, match="k=0"):
        DynamicRouting(llama(), k=0)
    with pytest.raises(AdapterError, match="DoRA"):
        routed.add("other", LoraConfig(target_modules=["q_proj"], use_dora=True))
    with pytest.raises(AdapterError, match="LoRA layers already"):
        DynamicRouting(get_peft_model(llama(), LoraConfig(target_modules=["q_proj"])))
    with pytest.raises(AdapterError, match="the loss is nan"):
        routed.train_module("one", lambda step: torch.tensor(torch.nan), steps=1)
