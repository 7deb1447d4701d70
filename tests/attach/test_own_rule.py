"""With the model's own rule in wye's parts, a mixture computes what it computed before."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import wye
from wye.moe import after_step, record, routed_layers

pytestmark = pytest.mark.torch

MIXTURES = ["mixtral", "olmoe", "olmoe, normalised", "qwen3_moe", "deepseek_v3"]
Build = Callable[..., Any]


@pytest.fixture(params=MIXTURES)
def pair(request: pytest.FixtureRequest, build: Build) -> tuple[Any, Any]:
    """The stock model, and a copy with its own rule attached."""
    stock = build(request.param)
    return stock, wye.attach(copy.deepcopy(stock))


def test_logits_are_those_of_the_stock_model(pair: tuple[Any, Any], ids: Tensor) -> None:
    stock, attached = pair
    torch.testing.assert_close(attached(ids).logits, stock(ids).logits, atol=1e-5, rtol=1e-5)
    assert attached.config._experts_implementation == "wye"


def test_logits_of_real_tokens_are_those_of_the_stock_model_under_padding(
    pair: tuple[Any, Any], ids: Tensor, mask: Tensor
) -> None:
    stock, attached = pair
    real = mask.bool()
    torch.testing.assert_close(
        attached(ids, attention_mask=mask).logits[real],
        stock(ids, attention_mask=mask).logits[real],
        atol=1e-5,
        rtol=1e-5,
    )
    for layer in routed_layers(attached).values():
        assert layer.last.plan.n_sources == int(real.sum())
        assert torch.equal(layer.last_context.token_ids, ids[real])


def test_gradients_are_those_of_the_stock_model(
    pair: tuple[Any, Any], ids: Tensor, mask: Tensor, labels: Tensor
) -> None:
    for model in pair:
        model.train()
        model(ids, attention_mask=mask, labels=labels).loss.backward()
    stock, attached = pair
    expected = {name: p.grad for name, p in stock.named_parameters()}
    added = 0
    for name, p in attached.named_parameters():
        if ".wye." in name:
            added += 1
            gate = expected[name.split(".wye.")[0] + ".gate.weight"]
            torch.testing.assert_close(p.grad, gate, atol=1e-5, rtol=1e-4)
        elif ".gate." in name:
            assert p.grad is None
            assert not p.requires_grad
        else:
            torch.testing.assert_close(p.grad, expected[name], atol=1e-5, rtol=1e-4)
    assert added == len(routed_layers(attached))


@pytest.mark.parametrize("cache", [None, "static"])
def test_generation_with_cache_and_left_padding_is_that_of_the_stock_model(
    pair: tuple[Any, Any], ids: Tensor, mask: Tensor, cache: str | None
) -> None:
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": mask}
    if cache is not None:
        options |= {"cache_implementation": cache, "disable_compile": True}
    stock, attached = pair
    with record(attached) as trace:
        made = attached.generate(ids, **options)
    assert torch.equal(made, stock.generate(ids, **options))
    plans = next(iter(trace.values()))
    assert [plan.n_sources for plan in plans] == [30] + [3] * 5
    assert int((plans[0].fan_out() > 0).sum()) == int(mask.sum())


def test_one_token_at_a_time_with_cache_gives_the_logits_of_the_whole(
    pair: tuple[Any, Any], ids: Tensor
) -> None:
    _, attached = pair
    whole, cache, steps = attached(ids).logits, None, []
    for position in range(ids.shape[1]):
        out = attached(ids[:, position : position + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-4, rtol=1e-4)


def test_embeddings_in_place_of_ids_work(pair: tuple[Any, Any], ids: Tensor) -> None:
    stock, attached = pair
    embedded = stock.get_input_embeddings()(ids)
    made = attached(inputs_embeds=embedded).logits
    torch.testing.assert_close(made, stock(ids).logits, atol=1e-5, rtol=1e-5)


def test_all_tokens_padded_is_a_defined_result(pair: tuple[Any, Any], ids: Tensor) -> None:
    _, attached = pair
    assert attached(ids, attention_mask=torch.zeros_like(ids)).logits.shape == (3, 10, 64)


@pytest.mark.parametrize("name", ["mixtral", "olmoe", "qwen3_moe"])
def test_router_logits_and_the_models_own_loss_are_those_of_the_stock_model(
    build: Build, ids: Tensor, mask: Tensor, labels: Tensor, name: str
) -> None:
    stock = build(name, output_router_logits=True).train()
    attached = wye.attach(copy.deepcopy(stock))
    given = {"attention_mask": mask, "labels": labels}
    out, expected = attached(ids, **given), stock(ids, **given)
    torch.testing.assert_close(out.aux_loss, expected.aux_loss, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out.loss, expected.loss, atol=1e-5, rtol=1e-5)
    assert [z.shape for z in out.router_logits] == [z.shape for z in expected.router_logits]
    out.loss.backward()
    expected.loss.backward()
    router = attached.model.layers[0].mlp.wye.router.scores.weight
    gate = stock.model.layers[0].mlp.gate.weight
    torch.testing.assert_close(router.grad, gate.grad, atol=1e-5, rtol=1e-4)


def test_it_compiles_in_one_graph(build: Build, ids: Tensor) -> None:
    stock = build("deepseek_v3", num_hidden_layers=2)
    attached = wye.attach(copy.deepcopy(stock))
    compiled = torch.compile(attached, backend="aot_eager", fullgraph=True)
    made = compiled(ids, use_cache=False).logits
    torch.testing.assert_close(made, stock(ids).logits, atol=1e-5, rtol=1e-5)
    torch.compiler.reset()


def test_it_compiles_with_padding(build: Build, ids: Tensor, mask: Tensor) -> None:
    stock = build("mixtral", num_hidden_layers=1)
    attached = wye.attach(copy.deepcopy(stock))
    compiled = torch.compile(attached, backend="aot_eager")
    made = compiled(ids, attention_mask=mask, use_cache=False).logits
    expected = stock(ids, attention_mask=mask).logits
    real = mask.bool()
    torch.testing.assert_close(made[real], expected[real], atol=1e-5, rtol=1e-5)
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3"])
def test_autocast_routes_in_float32_and_stays_near_the_stock_model(
    build: Build, ids: Tensor, name: str
) -> None:
    attached = wye.attach(build(name))
    exact = attached(ids).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = attached(ids).logits
    for layer in routed_layers(attached).values():
        assert layer.last.logits.dtype == torch.float32
        assert layer.last.plan.weight.dtype == torch.float32
    # bfloat16 keeps 8 bits, through three layers whose logits are of scale 4.
    assert float((narrow.float() - exact).abs().mean()) < 0.2


def test_a_model_in_bfloat16_works_and_gives_bfloat16(build: Build, ids: Tensor) -> None:
    attached = wye.attach(build("mixtral").bfloat16())
    assert attached(ids).logits.dtype == torch.bfloat16
    assert attached.model.layers[0].mlp.wye.router.scores.weight.dtype == torch.float32


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(
    pair: tuple[Any, Any], ids: Tensor, mask: Tensor, labels: Tensor, reentrant: bool
) -> None:
    _, attached = pair
    attached.train()
    attached(ids, attention_mask=mask, labels=labels).loss.backward()
    expected = {n: p.grad.clone() for n, p in attached.named_parameters() if p.grad is not None}
    attached.zero_grad()
    attached.gradient_checkpointing_enable({"use_reentrant": reentrant})
    attached.enable_input_require_grads()
    attached(ids, attention_mask=mask, labels=labels).loss.backward()
    for name, p in attached.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, expected[name], atol=1e-6, rtol=1e-5)


def test_two_passes_before_one_backward_pass_under_checkpointing_keep_their_own_padding(
    pair: tuple[Any, Any], ids: Tensor, mask: Tensor, labels: Tensor
) -> None:
    _, attached = pair
    attached.train()

    def gradients() -> dict[str, Tensor]:
        attached.zero_grad()
        first = attached(ids, attention_mask=mask, labels=labels).loss
        second = attached(ids[:, :7], labels=ids[:, :7]).loss
        (first + second).backward()
        return {n: p.grad.clone() for n, p in attached.named_parameters() if p.grad is not None}

    expected = gradients()
    attached.gradient_checkpointing_enable({"use_reentrant": False})
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5)


def test_a_state_dict_makes_the_round_trip(pair: tuple[Any, Any], ids: Tensor) -> None:
    stock, attached = pair
    other = wye.attach(copy.deepcopy(stock))
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    state = attached.state_dict()
    assert set(stock.state_dict()) < set(state)
    other.load_state_dict(state)
    assert torch.equal(other(ids).logits, attached(ids).logits)


def test_the_base_model_is_saved_and_loaded_as_ever(
    pair: tuple[Any, Any], ids: Tensor, tmp_path: Any
) -> None:
    from safetensors.torch import load_file

    stock, attached = pair
    stock.save_pretrained(tmp_path / "stock")
    attached.save_pretrained(tmp_path / "attached")
    expected = load_file(tmp_path / "stock" / "model.safetensors")
    written = load_file(tmp_path / "attached" / "model.safetensors")
    assert set(written) == set(expected)
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    again = type(stock).from_pretrained(tmp_path / "attached").eval()
    torch.testing.assert_close(again(ids).logits, stock(ids).logits, atol=1e-5, rtol=1e-5)


def test_detaching_brings_back_the_very_modules(pair: tuple[Any, Any], ids: Tensor) -> None:
    _, attached = pair
    wye.detach(attached)
    stock = copy.deepcopy(attached)
    layout, weights = str(stock), {n: v.clone() for n, v in stock.state_dict().items()}
    trainable = [p.requires_grad for p in stock.parameters()]
    before = stock(ids).logits
    modules = list(stock.modules())
    wye.attach(stock, seed=3)
    with torch.no_grad():
        for layer in routed_layers(stock).values():
            for p in layer.router.parameters():
                p.zero_()
    stock(ids)
    wye.detach(stock)
    assert str(stock) == layout
    assert all(a is b for a, b in zip(stock.modules(), modules, strict=True))
    assert list(stock.state_dict()) == list(weights)
    assert all(torch.equal(v, weights[n]) for n, v in stock.state_dict().items())
    assert [p.requires_grad for p in stock.parameters()] == trainable
    assert torch.equal(stock(ids).logits, before)
    assert stock.config._experts_implementation != "wye"
    assert not stock._keys_to_ignore_on_save


def test_a_copy_of_an_attached_model_is_attached_on_its_own(
    pair: tuple[Any, Any], ids: Tensor, mask: Tensor
) -> None:
    stock, attached = pair
    twin = copy.deepcopy(attached)
    wye.detach(attached)
    out = twin(ids, attention_mask=mask).logits
    assert routed_layers(twin)
    assert not routed_layers(attached)
    real = mask.bool()
    expected = stock(ids, attention_mask=mask).logits
    torch.testing.assert_close(out[real], expected[real], atol=1e-5, rtol=1e-5)
    wye.detach(twin)
    assert torch.equal(twin(ids).logits, attached(ids).logits)


def test_the_rule_of_deepseek_keeps_its_correction_bias(build: Build, ids: Tensor) -> None:
    stock = build("deepseek_v3")
    attached = wye.attach(copy.deepcopy(stock)).train()
    attached(ids)
    after_step(attached)
    for index in (1, 2):
        bias = attached.model.layers[index].mlp.wye.router.balance[0].bias_E
        assert torch.equal(bias, stock.model.layers[index].mlp.gate.e_score_correction_bias)


def test_other_experts_implementations_of_transformers_run_the_same_plan(
    pair: tuple[Any, Any], ids: Tensor
) -> None:
    stock, attached = pair
    for name in ("eager", "batched_mm"):
        attached.set_experts_implementation(name)
        made = attached(ids).logits
        torch.testing.assert_close(made, stock(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_stock_model_runs_on_wyes_dispatch_without_being_attached(
    build: Build, ids: Tensor
) -> None:
    from wye.attachment.experts import register_experts

    model = build("mixtral")
    expected = model(ids).logits
    register_experts()
    model.set_experts_implementation("wye")
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)
