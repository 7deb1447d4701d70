"""Training: repeatable, right under accumulation, and written down as it happened."""

import io
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn import functional as F

from wye.core import max_violation
from wye.moe import (
    Capped,
    ComposedRouter,
    Experts,
    FeedForward,
    Gate,
    LanguageModel,
    LinearScores,
    MoEError,
    MoELayer,
    Shape,
    TopK,
    TopP,
    ZLoss,
    evaluate,
    record,
    train,
)
from wye.moe.learning.training import next_token_loss, share_of_rate, windows
from wye.moe.learning.training_bar import training_bar

pytestmark = pytest.mark.torch

TEXT = bytes((7 * i * i + 3 * i) % 251 for i in range(4000))
CYCLE = b"abcdefgh" * 200
SIZES = {"batch": 4, "length": 12}


def model_of(selection=None, *, balance=(), jitter=0.0, carries=True, router=ComposedRouter):
    torch.manual_seed(0)
    layers = [
        MoELayer(
            router(
                16,
                LinearScores(16, 4, jitter=jitter),
                gate=Gate(normalise=True),
                selection=selection or TopK(2),
                balance=[make() for make in balance],
            ),
            Experts(4, 16, 8),
            carries_losses=carries,
        )
        for _ in range(2)
    ]
    return LanguageModel(layers, width=16, length=12, n_heads=2)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    made = []
    for seed in (0, 0, 1):
        model = model_of(jitter=0.1)
        torch.manual_seed(seed + 100 * len(made))
        log = train(model, TEXT, steps=4, seed=seed, **SIZES)
        made.append((log, weights(model)))
    assert torch.equal(made[0][1], made[1][1])
    assert made[0][0].loss.tolist() == made[1][0].loss.tolist()
    assert made[0][0].load.tolist() == made[1][0].load.tolist()
    assert not torch.equal(made[0][1], made[2][1])


def test_the_global_generator_and_the_mode_are_left_as_they_were():
    model = model_of(jitter=0.1).eval()
    before = torch.get_rng_state()
    train(model, TEXT, steps=2, **SIZES)
    evaluate(model, TEXT, batches=1, **SIZES)
    assert torch.equal(before, torch.get_rng_state())
    assert not model.training
    evaluate(model.train(), TEXT, batches=1, **SIZES)
    assert model.training


def test_a_model_learns_what_can_be_learnt():
    model = model_of()
    log = train(model, CYCLE, steps=120, rate=1e-2, **SIZES)
    assert log.loss[0] > 4
    assert evaluate(model, CYCLE, batches=2, **SIZES).loss < 0.1


def test_micro_batches_add_up_to_one_batch_of_the_same_tokens():
    # The z-loss is a mean over tokens, so that its scale under accumulation shows.
    halves, whole = (model_of(balance=[lambda: ZLoss(1.0)]) for _ in range(2))
    first = train(halves, TEXT, steps=5, batch=4, length=12, micro_batches=2)
    drawn = []

    def joined(model, ids, generator):
        rest = windows(torch.tensor(list(TEXT)), 4, 12, generator)
        drawn.append(torch.cat([ids, rest]))
        return next_token_loss(model, drawn[-1], generator)

    second = train(whole, TEXT, steps=5, batch=4, length=12, objective=joined)
    assert drawn[0].shape == (8, 13)
    assert np.allclose(first.loss, second.loss, atol=1e-5)
    assert np.allclose(first.auxiliary, second.auxiliary, atol=1e-5)
    assert first.load.tolist() == second.load.tolist()
    assert torch.allclose(weights(halves), weights(whole), atol=2e-4)


def test_losses_added_by_hand_train_as_those_carried_on_the_activation():
    carried, added = (
        model_of(balance=[lambda: ZLoss(0.5)], carries=carries) for carries in (True, False)
    )
    for model in (carried, added):
        train(model, TEXT, steps=4, micro_batches=2, **SIZES)
    free = model_of()
    train(free, TEXT, steps=4, micro_batches=2, **SIZES)
    assert torch.allclose(weights(carried), weights(added), atol=1e-5)
    assert not torch.allclose(weights(carried), weights(free), atol=1e-4)


class Counting(ComposedRouter):
    steps = 0

    def after_step(self):
        super().after_step()
        self.steps += 1


def test_routers_hear_of_every_optimiser_step_once():
    model = model_of(router=Counting)
    train(model, TEXT, steps=3, micro_batches=4, **SIZES)
    assert [b.feed_forward.router.steps for b in model.blocks] == [3, 3]


def test_the_log_holds_the_load_of_the_plans_that_ran():
    model = model_of()
    with record(model) as trace:
        log = train(model, TEXT, steps=3, micro_batches=2, **SIZES)
    assert log.load.shape == (3, 2, 4)
    for place, name in enumerate(log.layers):
        plans = trace[name]
        for step in range(3):
            both = plans[2 * step].load() + plans[2 * step + 1].load()
            assert log.load[step, place].tolist() == both.tolist()
            assert log.max_violation[step, place] == max_violation(both)
    assert log.fan_out.tolist() == [[2.0, 2.0]] * 3
    assert log.drop_share.tolist() == [[0.0, 0.0]] * 3
    assert log.tokens_per_step == 96


def test_dropped_pairs_are_a_share_of_those_asked_for():
    model = model_of(Capped(TopK(2), factor=0.25, minimum=1))
    log = train(model, TEXT, steps=2, **SIZES)
    # 48 tokens, 4 experts: at most ceil(0.25 * 48 * 2 / 4) = 6 pairs each, of 96 in all.
    assert bool((log.load <= 6).all())
    assert np.allclose(log.drop_share, 1 - log.load.sum(axis=2) / 96)
    assert float(log.drop_share.min()) >= 0.75


def test_a_varying_fan_out_is_measured_and_drops_nothing_that_could_be_counted():
    log = train(model_of(TopP(0.6)), TEXT, steps=2, **SIZES)
    assert bool(((log.fan_out >= 1) & (log.fan_out <= 4)).all())
    assert bool(np.isnan(log.drop_share).all())


def test_a_dense_model_has_a_log_without_layers():
    torch.manual_seed(0)
    model = LanguageModel([FeedForward(16, 8)], width=16, length=12)
    log = train(model, TEXT, steps=2, **SIZES)
    assert log.layers == ()
    assert log.max_violation.shape == (2, 0)
    assert evaluate(model, TEXT, batches=1, **SIZES).max_violation == {}


def test_layers_of_different_sizes_have_loads_by_name_alone():
    torch.manual_seed(0)
    layers = [
        MoELayer(
            ComposedRouter(16, LinearScores(16, e), gate=Gate(), selection=TopK(1)),
            Experts(e, 16, 8),
        )
        for e in (2, 3)
    ]
    model = LanguageModel(layers, width=16, length=12)
    log = train(model, TEXT, steps=2, **SIZES)
    assert [load.shape for load in log.loads.values()] == [(2, 2), (2, 3)]
    assert log.max_violation.shape == (2, 2)
    with pytest.raises(MoEError, match=r"layers have \[2, 3\] experts"):
        _ = log.load


def test_evaluation_equals_a_loop_over_windows():
    model = model_of().eval()
    found = evaluate(model, TEXT, batches=3, batch=4, length=12)
    starts = np.linspace(0, len(TEXT) - 13, 12).astype(int)
    losses = []
    for start in starts:
        ids = torch.tensor(list(TEXT[start : start + 13]))
        with torch.no_grad():
            logits = model(ids[None, :-1])[0]
        losses.append(float(F.cross_entropy(logits, ids[1:])))
    assert found.loss == pytest.approx(np.mean(losses), abs=1e-5)
    assert found.load.sum(axis=1).tolist() == [12 * 12 * 2] * 2
    assert set(found.fan_out.values()) == {2.0}


def test_evaluation_uses_each_place_of_a_short_text_once():
    model = model_of()
    found = evaluate(model, TEXT[:30], batches=8, batch=16, length=12)
    assert set(found.tokens.values()) == {24}


def test_ids_may_come_as_a_tensor():
    ids = torch.tensor(list(TEXT))
    a, b = model_of(), model_of()
    assert train(a, ids, steps=2, **SIZES).loss.tolist() == (
        train(b, TEXT, steps=2, **SIZES).loss.tolist()
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps=0, expected at least 1"),
        ({"micro_batches": 0}, "micro_batches=0"),
        ({"length": 4000}, "give more text than one window"),
        ({"schedule": "linear"}, "schedule='linear', expected 'constant' or 'cosine'"),
        ({"text": torch.zeros(100)}, r"expected ids \[n\]"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, said):
    given = {"text": TEXT, "steps": 1, **SIZES, **changes}
    with pytest.raises(MoEError, match=said):
        train(model_of(), given.pop("text"), **given)


def test_a_loss_that_is_no_number_stops_the_run():
    def broken(model, ids, generator):
        return next_token_loss(model, ids, generator) * float("nan")

    with pytest.raises(MoEError, match="the loss is nan in step 1"):
        train(model_of(), TEXT, steps=2, objective=broken, **SIZES)


def test_the_rate_warms_up_and_then_stays_or_falls_to_a_tenth():
    constant = [share_of_rate(s, 100, "constant") for s in range(100)]
    cosine = [share_of_rate(s, 100, "cosine") for s in range(100)]
    assert constant[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert set(constant[9:]) == {1.0}
    assert cosine[:10] == constant[:10]
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    assert 0.1 < cosine[-1] < 0.11
    assert share_of_rate(0, 1, "cosine") == 1.0


def test_progress_is_told_step_by_step():
    told = []
    log = train(model_of(), TEXT, steps=3, progress=told.append, **SIZES)
    assert [step.number for step in told] == [1, 2, 3]
    assert [step.loss for step in told] == log.loss.tolist()
    assert [step.max_violation for step in told] == log.max_violation.max(axis=1).tolist()
    assert all(step.tokens_per_second > 0 for step in told)


def test_the_bar_shows_loss_balance_and_speed():
    screen = io.StringIO()
    told = []
    train(model_of(), TEXT, steps=1, progress=told.append, **SIZES)
    step = replace(told[0], loss=2.345, max_violation=0.67, tokens_per_second=8901.0)
    with training_bar(1, Console(file=screen, force_terminal=True, width=120)) as report:
        report(step)
    for shown in ("loss 2.345", "MaxVio 0.67", "8,901 tokens/s", "1/1"):
        assert shown in screen.getvalue()


def test_predicting_next_tokens_through_a_router_that_sees_them_warns():
    shape = Shape(n_layers=1, width=8, hidden=8, n_experts=2, k=1)
    seeing = LanguageModel.build("expert_choice", shape, length=8, n_heads=2)
    with pytest.warns(UserWarning, match="route a token by later ones"):
        train(seeing, bytes(range(200)), steps=1, batch=2, length=8)
    blind = LanguageModel.build("top_k", shape, length=8, n_heads=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(blind, bytes(range(200)), steps=1, batch=2, length=8)
