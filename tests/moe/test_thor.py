"""Experts drawn at random: who shares a draw, when draws repeat, and the loss of two draws."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wye.core import symmetric_divergence
from wye.moe import (
    Context,
    LanguageModel,
    MoEError,
    MoELayer,
    Shape,
    build_layers,
    get_router,
    record,
    train,
)
from wye.moe.learning.consistency import consistent_next_token_loss, disagreement, two_draws
from wye.moe.learning.training import next_token_loss
from wye.moe.parts.draws import inference, same_draws

pytestmark = pytest.mark.torch

D, E = 16, 4


def shape_of(n_experts: int = E, n_layers: int = 3) -> Shape:
    return Shape(n_layers=n_layers, width=D, hidden=8, n_experts=n_experts, k=1)


def model_of(n_experts: int = E, **options: Any) -> LanguageModel:
    torch.manual_seed(0)
    layers = build_layers("thor", shape_of(n_experts), **options)
    return LanguageModel(layers, width=D, length=12, n_heads=2)


def choices(model: Any, ids: Any, **options: Any) -> list[Any]:
    """The expert of every token that is no padding, `[B, ...]`, by layer."""
    with record(model) as trace:
        model(ids, **options)
    return [trace[name][-1].target.reshape(len(ids), -1) for name in trace]


def ids_of(batch: int = 5, length: int = 12, seed: int = 0) -> Any:
    return torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_every_second_layer_has_experts() -> None:
    layers = build_layers("thor", shape_of(n_layers=5))
    assert [isinstance(layer, MoELayer) for layer in layers] == [True, False, True, False, True]
    assert all(isinstance(x, MoELayer) for x in build_layers("thor", shape_of(), every=1))


def test_the_units_of_a_draw() -> None:
    ids = ids_of(64)
    for draw in ("batch", "sentence", "token"):
        drawn = choices(model_of(draw=draw).train(), ids)[0]
        within = bool((drawn == drawn[:, :1]).all())
        across = bool((drawn[:, 0] == drawn[0, 0]).all())
        assert (within, across) == {
            "batch": (True, True),
            "sentence": (True, False),
            "token": (False, False),
        }[draw]


@pytest.mark.parametrize("draw", ["batch", "sentence", "token"])
def test_ten_thousand_draws_are_uniform(draw: Any) -> None:
    router = get_router("thor", D, E, draw=draw).train()
    batch = {"batch": 1, "sentence": 10_000, "token": 100}[draw]
    n = {"batch": 1, "sentence": 10_000, "token": 10_000}[draw]
    rounds = 10_000 if draw == "batch" else 1
    context = Context(batch=batch, length=n // batch)
    x = torch.zeros(n, D)
    torch.manual_seed(3)
    counts = sum(router(x, context).plan.load() for _ in range(rounds)).numpy()
    assert counts.sum() == 10_000
    deviation = np.sqrt(10_000 * (1 / E) * (1 - 1 / E))
    assert np.all(np.abs(counts - 10_000 / E) < 4 * deviation)


def test_hashed_draws_are_uniform_over_first_tokens_and_layers() -> None:
    counts = np.zeros(E)
    for layer in range(40):
        router = get_router("thor", D, E, layer=layer).eval()
        context = Context(batch=256, length=1, token_ids=torch.arange(256))
        counts += router(torch.zeros(256, D), context).plan.load().numpy()
    n = counts.sum()
    assert np.all(np.abs(counts - n / E) < 4 * np.sqrt(n * (1 / E) * (1 - 1 / E)))


def test_layers_draw_independently() -> None:
    model = model_of(draw="sentence").train()
    first, second = choices(model, ids_of(400, 2))
    same = float((first[:, 0] == second[:, 0]).float().mean())
    assert abs(same - 1 / E) < 4 * np.sqrt((1 / E) * (1 - 1 / E) / 400)


def test_identical_experts_give_identical_logits_under_any_draw() -> None:
    model = model_of(draw="token").train()
    with torch.no_grad():
        for block in model.blocks:
            if isinstance(block.feed_forward, MoELayer):
                for p in block.feed_forward.experts.parameters():
                    p.copy_(p[:1].expand_as(p))
    ids = ids_of()
    torch.testing.assert_close(model(ids), model(ids), atol=1e-6, rtol=1e-5)
    model.eval()
    with inference(model, "ensemble"):
        ensemble = model(ids)
    torch.testing.assert_close(model(ids), ensemble, atol=1e-5, rtol=1e-4)


def test_the_gradient_reaches_exactly_the_experts_drawn() -> None:
    model = model_of().train()
    ids = ids_of()
    torch.manual_seed(5)
    drawn = choices(model, ids)
    torch.manual_seed(5)
    model(ids).square().sum().backward()
    layers = [b.feed_forward for b in model.blocks if isinstance(b.feed_forward, MoELayer)]
    for layer, target in zip(layers, drawn, strict=True):
        reached = layer.experts.down.grad.flatten(1).abs().amax(dim=1) > 0
        assert reached.nonzero()[:, 0].tolist() == sorted(set(target.flatten().tolist()))


def test_with_one_expert_the_loss_is_twice_the_ordinary_one() -> None:
    model = model_of(n_experts=1).train()
    ids = ids_of(4, 12)
    generator = torch.Generator()

    def run() -> Any:
        logits = model(ids[:, :-1])
        return logits, F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    both = two_draws(run, alpha=5.0)
    assert float(both.divergence.detach()) == 0
    once = next_token_loss(model, ids, generator)
    assert float(both.loss.detach()) == pytest.approx(2 * float(once.detach()), rel=1e-6)
    both.loss.backward()
    twice = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    (2 * once).backward()
    for a, b in zip(twice, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_the_loss_of_two_draws_is_both_losses_and_the_weighted_divergence() -> None:
    logits = [torch.randn(3, 4, 7, requires_grad=True) for _ in range(2)]
    losses = [torch.tensor(0.7), torch.tensor(0.4)]
    counted = torch.rand(3, 4) < 0.6
    passes = iter(zip(logits, losses, strict=True))
    both = two_draws(lambda: next(passes), alpha=3.0, counted=counted)
    p, q = (torch.softmax(x, dim=-1) for x in logits)
    each = 0.5 * (F.kl_div(q.log(), p, reduction="none") + F.kl_div(p.log(), q, reduction="none"))
    expected = each.sum(dim=-1)[counted].mean()
    torch.testing.assert_close(both.divergence, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(both.loss, 1.1 + 3.0 * expected, atol=1e-6, rtol=1e-5)
    both.loss.backward()
    assert all(float(x.grad.abs().max()) > 0 for x in logits)


def test_two_draws_work_for_any_stochastic_selection() -> None:
    layer = MoELayer(get_router("top_k", D, E, k=1), _experts()).train()
    layer.router.scores.jitter = 0.9
    x = torch.randn(40, D)
    both = two_draws(lambda: (layer(x), layer(x).mean()), alpha=1.0)
    assert float(both.divergence.detach()) > 0


def _experts() -> Any:
    from wye.moe import Experts

    return Experts(E, D, 8)


@pytest.mark.parametrize("draw", ["batch", "sentence", "token"])
def test_checkpointing_recomputes_with_the_experts_that_it_ran(draw: Any) -> None:
    def gradients(again: bool) -> list[Any]:
        model = model_of(draw=draw).train()
        model.checkpointing = again
        torch.manual_seed(9)
        consistent_next_token_loss(model, ids_of(), torch.Generator(), alpha=2.0).backward()
        return [p.grad for p in model.parameters()]

    for kept, recomputed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(kept, recomputed)


def test_accumulated_micro_batches_draw_the_same_experts() -> None:
    model = model_of().train()
    drawn = []
    for micro in range(6):
        with same_draws(model, seed=7):
            drawn.append([int(x[0, 0]) for x in choices(model, ids_of(3, seed=micro))])
    assert len(set(map(tuple, drawn))) == 1
    others = set()
    for seed in range(20):
        with same_draws(model, seed=seed):
            others.add(tuple(int(x[0, 0]) for x in choices(model, ids_of())))
    assert len(others) > 4


def test_two_passes_inside_same_draws_differ_and_cannot_be_recomputed() -> None:
    model = model_of(draw="token").train()
    ids = ids_of()
    with same_draws(model, seed=1):
        first, second = choices(model, ids), choices(model, ids)
    assert not torch.equal(first[0], second[0])
    model.checkpointing = True
    with same_draws(model, seed=1):
        model(ids).sum().backward()
    with same_draws(model, seed=1), pytest.raises(MoEError, match="same_draws of its own"):
        (model(ids).sum() + model(ids).sum()).backward()


def test_inference_repeats_and_depends_on_no_later_token_and_no_batch_mate() -> None:
    model = model_of().eval()
    ids = ids_of(20)
    for mode in ("sentence", "token", "batch"):
        with inference(model, mode):
            whole = choices(model, ids)
            assert all(map(torch.equal, whole, choices(model, ids)))
            other = ids.clone()
            other[:, 6:] = (other[:, 6:] + 1) % 256
            for a, b in zip(whole, choices(model, other), strict=True):
                assert torch.equal(a[:, :6], b[:, :6])
            for a, b in zip(whole, choices(model, ids[7:9]), strict=True):
                assert torch.equal(a[7:9], b)


def test_a_sentence_keeps_its_draw_when_it_is_padded_on_either_side() -> None:
    model = model_of().eval()
    ids = ids_of(2, 7)
    for mode in ("sentence", "token"):
        with inference(model, mode):
            alone = choices(model, ids)
            for left, right in ((0, 5), (5, 0), (2, 3)):
                padded = F.pad(ids, (left, right), value=9)
                mask = F.pad(torch.ones_like(ids), (left, right)).bool()
                for a, b in zip(alone, choices(model, padded, mask=mask), strict=True):
                    assert torch.equal(a, b)


def test_named_sentences_share_a_draw() -> None:
    model = model_of().eval()
    beams = ids_of(32)
    with same_draws(model, seed=2, sentences=torch.arange(32) // 4):
        for drawn in choices(model, beams):
            assert torch.equal(drawn, drawn[::4].repeat_interleave(4, dim=0))
            assert len(set(drawn[:, 0].tolist())) > 1
    with (
        same_draws(model, seed=2, sentences=torch.arange(3)),
        pytest.raises(MoEError, match="each of the 32 sequences"),
    ):
        model(beams)


def test_a_generator_draws_anew_and_repeats_under_its_seed() -> None:
    model = model_of().eval()
    ids = ids_of(40)

    def drawn(seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        with inference(model, "sentence", generator=generator):
            return choices(model, ids) + choices(model, ids)

    first = drawn(0)
    assert all(map(torch.equal, first, drawn(0)))
    assert not torch.equal(first[0], first[2])


def test_ensemble_is_the_mean_of_the_experts_and_fixed_the_first() -> None:
    layer = build_layers("thor", shape_of(n_layers=1))[0].eval()
    x = torch.randn(9, D)
    outputs = []
    for expert in range(E):
        up, down = layer.experts.up[expert], layer.experts.down[expert]
        outputs.append(F.linear(torch.relu(F.linear(x, up)), down))
    with inference(layer, "ensemble"):
        torch.testing.assert_close(layer(x), torch.stack(outputs).mean(dim=0))
    with inference(layer, "fixed"):
        torch.testing.assert_close(layer(x), outputs[0])


def test_experts_learn_to_agree() -> None:
    text = bytes(range(97, 123)) * 40

    def after(alpha: float) -> float:
        model = model_of()
        objective = partial(consistent_next_token_loss, alpha=alpha)
        train(model, text, steps=25, batch=4, length=12, objective=objective)
        model.eval()
        with inference(model, "sentence", generator=torch.Generator().manual_seed(0)):
            return disagreement(model, ids_of(40))

    assert after(5.0) < after(0.0)


def test_disagreement_is_the_divergence_of_two_draws() -> None:
    model = model_of().eval()
    ids = ids_of()
    with inference(model, "sentence", generator=torch.Generator().manual_seed(4)):
        found = disagreement(model, ids)
    with inference(model, "sentence", generator=torch.Generator().manual_seed(4)):
        a, b = model(ids).flatten(0, 1), model(ids).flatten(0, 1)
    assert found == pytest.approx(float(symmetric_divergence(a, b).detach()))
    assert found > 0
    with inference(model, "fixed"):
        assert disagreement(model, ids) == 0


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(MoEError, match="expected one of"):
        get_router("thor", D, E, draw="page")
    with pytest.raises(MoEError, match="expected one of"):
        get_router("thor", D, E, inference="best")
    with pytest.raises(MoEError, match="at least 1"):
        build_layers("thor", shape_of(), every=0)
    with pytest.raises(MoEError, match="no layer that draws"), same_draws(torch.nn.Linear(1, 1), 0):
        pass
    with pytest.raises(MoEError, match="a number >= 0"):
        two_draws(lambda: (torch.ones(1, 1), torch.ones(())), alpha=-1)
    empty = get_router("thor", D, E).train()(torch.zeros(0, D), Context(batch=0, length=3))
    assert len(empty.plan) == 0


def test_hashed_draws_compile_in_one_graph() -> None:
    router = get_router("thor", D, E).eval()
    context = Context(batch=2, length=6, token_ids=torch.arange(12))
    x = torch.randn(12, D)
    compiled = torch.compile(
        lambda: router(x, context).plan.target, backend="eager", fullgraph=True
    )
    assert torch.equal(compiled(), router(x, context).plan.target)
