"""A gate per query: the base where it is closed, the adapter where it is open, nothing between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from wye.adapter import AdapterError, GatedAdapter  # noqa: E402
from wye.testing import check_batch_invariant, check_causal, check_padding  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`"),
]


@pytest.fixture
def gated(llama: Any, stir: Any) -> GatedAdapter:
    model = GatedAdapter(llama(), rank=4, alpha=8).eval()
    stir(model.inner, "persona")
    return model


def split(gated: GatedAdapter, ids: Any) -> None:
    """Put the threshold where half of the queries take the adapter."""
    values = gated.decide(gated.states(ids)).gate[:, 0].sort().values
    gated.threshold = float(values[len(values) // 2 - 1 :][:2].mean())


def test_a_closed_gate_leaves_the_base_model_bit_for_bit(
    gated: GatedAdapter, llama: Any, ids: Any
) -> None:
    gated.threshold = 1.0
    assert torch.equal(gated(ids).logits, llama()(ids).logits)
    assert gated.last.names == ("base",) * 4


def test_what_the_gate_reads_does_not_depend_on_the_choice(gated: GatedAdapter, ids: Any) -> None:
    free = gated.states(ids)
    with gated.forced("persona"):
        on = gated.states(ids)
    with gated.forced("base"):
        off = gated.states(ids)
    assert torch.equal(on, off)
    assert torch.equal(on, free)


def test_an_adapter_at_or_below_the_gate_is_refused(llama: Any) -> None:
    from peft import LoraConfig, get_peft_model

    with pytest.raises(AdapterError, match="at or below gate_layer=0"):
        GatedAdapter(llama(), [0, 1])
    everywhere = get_peft_model(llama(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(AdapterError, match=r"layers\.0\.self_attn\.q_proj"):
        GatedAdapter(everywhere)


def test_an_adapter_with_b_at_zero_changes_nothing_either_way(llama: Any, ids: Any) -> None:
    gated = GatedAdapter(llama(), rank=4).eval()
    base = llama()(ids).logits
    for threshold in (0.0, 1.0):
        gated.threshold = threshold
        assert torch.equal(gated(ids).logits, base)


def test_threshold_zero_equals_the_adapter_without_a_gate(gated: GatedAdapter, ids: Any) -> None:
    gated.threshold = 0.0
    routed = gated(ids).logits
    gated.remove_router()
    gated.peft.set_adapter("persona")
    torch.testing.assert_close(routed, gated.inner(ids).logits, atol=1e-6, rtol=0)


def test_a_mixed_batch_equals_the_two_runs_of_one_choice(gated: GatedAdapter, ids: Any) -> None:
    with gated.forced("persona"):
        on = gated(ids).logits
    with gated.forced("base"):
        off = gated(ids).logits
    assert not torch.allclose(on, off, atol=1e-2)
    split(gated, ids)
    mixed = gated(ids).logits
    assert set(gated.last.names) == {"base", "persona"}
    for row, name in enumerate(gated.last.names):
        torch.testing.assert_close(mixed[row], (off if name == "base" else on)[row])


def test_a_choice_is_made_at_prefill_and_kept_with_the_cache(gated: GatedAdapter, ids: Any) -> None:
    split(gated, ids)
    first = gated(ids, use_cache=True)
    names = gated.last.names
    # A further prompt between, whose choice is another one.
    with gated.forced("base"):
        gated(ids[:2], use_cache=True)
    step = torch.full((4, 1), 7)
    second = gated(step, past_key_values=first.past_key_values)
    assert gated.last.names == names
    end = torch.full((4,), ids.shape[1] - 1)
    whole = gated(torch.cat([ids, step], dim=1), query_end=end)
    assert gated.last.names == names
    torch.testing.assert_close(second.logits[:, -1], whole.logits[:, -1], atol=1e-5, rtol=0)


def test_generation_follows_each_rows_choice(gated: GatedAdapter, ids: Any) -> None:
    split(gated, ids)
    settings = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    mixed = gated.generate(ids, **settings)
    names = gated.last.names
    for target in ("base", "persona"):
        with gated.forced(target):
            alone = gated.generate(ids, **settings)
        rows = [i for i, name in enumerate(names) if name == target]
        assert rows
        assert torch.equal(mixed[rows], alone[rows])


def test_a_cache_from_elsewhere_is_refused(gated: GatedAdapter, llama: Any, ids: Any) -> None:
    foreign = llama()(ids, use_cache=True).past_key_values
    with pytest.raises(AdapterError, match="made without the gate"):
        gated(ids[:, :1], past_key_values=foreign)


def test_the_declared_contracts_hold(gated: GatedAdapter, ids: Any) -> None:
    split(gated, ids)
    assert gated.contracts.batch_invariant
    assert gated.contracts.padding
    check_batch_invariant(gated, ids)

    def with_mask(x: Any, mask: Any = None) -> Any:
        positions = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
        return gated.inner(input_ids=x, attention_mask=mask.long(), position_ids=positions)

    check_padding(with_mask, ids)


def test_behind_the_query_the_model_is_causal_and_inside_it_is_not(
    gated: GatedAdapter, ids: Any
) -> None:
    assert not gated.contracts.causal
    split(gated, ids)
    end = torch.full((4,), 2)

    def behind(x: Any) -> Any:
        return gated(x, query_end=end).logits

    check_causal(behind, ids, cuts=(3, 5, 8))
    # Inside: some other last token turns the choice, and with it what stands before.
    before = gated(ids).logits[:, 0]
    changed = ids.clone()
    changes = []
    for token in range(1, 30):
        changed[:, -1] = token
        changes.append(float((gated(changed).logits[:, 0] - before).abs().max()))
    assert max(changes) > 1e-3


def test_several_adapters_the_largest_gate_answers(llama: Any, stir: Any, ids: Any) -> None:
    from wye.adapter.lora_modules import add_module, layer_config

    model = llama()
    config = layer_config(model, [1], rank=2)
    peft = add_module(model, None, "first", config)
    peft = add_module(model, peft, "second", config)
    gated = GatedAdapter(peft, threshold=0.0).eval()
    stir(model, "first", 1)
    stir(model, "second", 2)
    mixed = gated(ids).logits
    decision = gated.last
    assert decision.gate.shape == (4, 2)
    want = [("first", "second")[i] for i in decision.gate.argmax(dim=1).tolist()]
    assert list(decision.names) == want
    for row, name in enumerate(want):
        with gated.forced(name):
            torch.testing.assert_close(mixed[row], gated(ids).logits[row])
    assert decision.plan.load().sum() == 4


def test_saved_and_loaded_it_decides_and_answers_the_same(
    gated: GatedAdapter, llama: Any, ids: Any, tmp_path: Path
) -> None:
    split(gated, ids)
    before = gated(ids).logits
    gated.save(tmp_path)
    again = GatedAdapter.load(llama(), tmp_path).eval()
    assert torch.equal(again(ids).logits, before)
    assert again.last.names == gated.last.names
    assert {p.name for p in tmp_path.glob("*.safetensors")} == {"wye_adapters.safetensors"}


def test_plain_peft_reads_the_saved_adapter(
    gated: GatedAdapter, llama: Any, ids: Any, tmp_path: Path
) -> None:
    from peft import PeftModel

    gated.save(tmp_path)
    plain = PeftModel.from_pretrained(llama(), str(tmp_path / "persona"))
    gated.threshold = 0.0
    torch.testing.assert_close(plain(ids).logits, gated(ids).logits, atol=1e-6, rtol=0)


def test_an_adapter_that_cannot_be_switched_per_query_is_refused(llama: Any) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["q_proj"], layers_to_transform=[1], use_dora=True)
    with pytest.raises(AdapterError, match="DoRA"):
        GatedAdapter(get_peft_model(llama(), config))


def test_bad_input_says_what_to_do(
    gated: GatedAdapter, llama: Any, ids: Any, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match="gate_layer=1"):
        GatedAdapter(llama(), gate_layer=1)
    with pytest.raises(AdapterError, match="no target 'nobody'"), gated.forced("nobody"):
        pass
    with pytest.raises(AdapterError, match=r"holds no wye_adapters\.json"):
        GatedAdapter.load(llama(), tmp_path)
    gated.tail = 20
    with pytest.raises(AdapterError, match="more than the tail of 20"):
        gated(ids)
    with pytest.raises(AdapterError, match="nothing was routed yet"):
        GatedAdapter(llama()).trace  # noqa: B018
