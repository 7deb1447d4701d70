"""Global-batch LBL: scopes, the identity between them, counts that are right."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from wye.moe import LanguageModel, MoEError, Shape, build_layers, get_router
from wye.moe.base import after_step, make_context
from wye.moe.learning.training import train
from wye.moe.losses import aux_loss, loss_scale
from wye.moe.parts.global_balance import GlobalBalanceLoss, global_batch

pytestmark = pytest.mark.torch

WIDTH, EXPERTS, K = 8, 4, 2
SCOPES = ("micro", "ranks", "buffer", "exact")


def made(scope: str, weight: float = 1.0, **options):
    torch.manual_seed(0)
    shape = Shape(n_layers=1, width=WIDTH, hidden=4, n_experts=EXPERTS, k=K)
    (layer,) = build_layers("global-batch-lbl", shape, scope=scope, weight=weight, **options)
    torch.nn.init.normal_(layer.router.scores.weight, std=0.5)
    return layer.train()


def micro_batches(count: int = 3, n: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, WIDTH, generator=generator) + 0.4 * b for b in range(count)]


def step(layer, batches) -> tuple[list[float], torch.Tensor]:
    """The losses of the micro-batches of one step, and the gradient of their mean."""
    layer.zero_grad()
    losses = []
    with global_batch(layer) as one:
        for x in batches:
            one.count(x)
        for x in batches:
            loss = layer.router(x, make_context(x)).losses["balance"]
            losses.append(float(loss.detach()))
            (loss / len(batches)).backward()
    return losses, layer.router.scores.weight.grad.clone()


def fractions(layer, batches):
    """f and p `[M, E]` by the definition."""
    f, p = [], []
    for x in batches:
        routing = layer.router.eval()(x, make_context(x))
        f.append(torch.bincount(routing.plan.target, minlength=EXPERTS) / (K * len(x)))
        p.append(routing.probabilities.mean(dim=0))
    layer.train()
    return torch.stack(f), torch.stack(p).detach()


def test_one_micro_batch_per_step_gives_the_same_in_all_scopes():
    (x,) = micro_batches(1)
    values, gradients = zip(*(step(made(scope), [x]) for scope in SCOPES), strict=True)
    for value, gradient in zip(values, gradients, strict=True):
        assert value == pytest.approx(values[0], abs=1e-6)
        torch.testing.assert_close(gradient, gradients[0])
    one = step(made("sequence"), [x])
    assert one[0] == pytest.approx(values[0], abs=1e-6)


def test_the_mean_of_exact_losses_is_the_loss_of_the_whole_step():
    batches = micro_batches()
    layer = made("exact")
    losses, gradient = step(layer, batches)
    f, p = fractions(layer, batches)
    whole = EXPERTS * (f.mean(dim=0) * p.mean(dim=0)).sum()
    assert sum(losses) / 3 == pytest.approx(float(whole), abs=1e-6)
    together, expected = step(made("micro"), [torch.cat(batches)])
    assert together[0] == pytest.approx(float(whole), abs=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


def test_unequal_micro_batches_count_by_their_tokens():
    batches = [x[:n] for x, n in zip(micro_batches(), (4, 16, 9), strict=True)]
    losses, gradient = step(made("exact"), batches)
    together, expected = step(made("micro"), [torch.cat(batches)])
    assert sum(losses) / 3 == pytest.approx(together[0], abs=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


def test_micro_and_global_differ_by_the_covariance_of_load_and_probability():
    batches = micro_batches()
    micro = sum(step(made("micro"), batches)[0]) / 3
    exact = sum(step(made("exact"), batches)[0]) / 3
    f, p = fractions(made("exact"), batches)
    covariance = ((f - f.mean(dim=0)) * (p - p.mean(dim=0))).sum(dim=1).mean()
    assert micro - exact == pytest.approx(EXPERTS * float(covariance), abs=1e-6)
    assert abs(micro - exact) > 1e-4


def test_the_buffer_runs_on_from_micro_batch_to_micro_batch():
    batches = micro_batches()
    layer = made("buffer")
    losses, _ = step(layer, batches)
    f, p = fractions(layer, batches)
    for a in range(3):
        running = f[: a + 1].mean(dim=0)
        assert losses[a] == pytest.approx(EXPERTS * float((running * p[a]).sum()), abs=1e-6)


def test_the_buffer_is_zero_after_the_optimiser_step():
    layer = made("buffer")
    controller = layer.router.balance[0]
    for x in micro_batches():
        layer(x)
    assert int(controller.counts.sum()) == 3 * 16 * K
    after_step(layer)
    assert not bool(controller.counts.any())
    assert not any("counts" in name for name in layer.state_dict())


def test_evaluation_and_recomputation_do_not_count():
    layer = made("buffer")
    x = micro_batches(1)[0].requires_grad_()
    layer.eval()(x)
    assert not bool(layer.router.balance[0].counts.any())
    layer.train()
    y = checkpoint(layer, x, use_reentrant=False)
    y.sum().backward()
    assert int(layer.router.balance[0].counts.sum()) == 16 * K


def test_gradients_under_checkpointing_are_the_same():
    batches = micro_batches()
    gradients = []
    for again in (False, True):
        layer = made("buffer")
        for x in batches:
            y = checkpoint(layer, x.requires_grad_(), use_reentrant=False) if again else layer(x)
            with loss_scale(1 / 3):
                (y.square().mean() / 3).backward()
        gradients.append(layer.router.scores.weight.grad)
    torch.testing.assert_close(*gradients)


def test_the_local_term_adds_a_share_of_the_micro_loss():
    batches = micro_batches()
    plain, _ = step(made("exact"), batches)
    both, _ = step(made("exact", local=0.01), batches)
    micro, _ = step(made("micro"), batches)
    for a, b, c in zip(plain, both, micro, strict=True):
        assert b == pytest.approx(a + 0.01 * c, abs=1e-6)


def test_the_pass_that_counts_leaves_no_trace_in_other_controllers():
    from wye.moe.parts.balance import LossFreeBias

    layer = made("exact")
    layer.router.balance.append(LossFreeBias(EXPERTS))
    (x,) = micro_batches(1)
    with global_batch(layer) as one:
        one.count(x)
        assert layer.training
        assert not bool(layer.router.balance[1].load.any())
        layer(x)
    assert int(layer.router.balance[1].load.sum()) == 16 * K


def test_exact_without_its_counting_pass_says_what_to_do():
    with pytest.raises(MoEError, match="global_batch"):
        made("exact")(micro_batches(1)[0])
    with pytest.raises(MoEError, match="scope"):
        GlobalBalanceLoss(4, scope="world")


def test_training_counts_beforehand_and_reads_one_text_per_micro_batch():
    texts = [bytes(range(100)) * 5, bytes(range(100, 200)) * 5]
    seen = []

    def objective(model, ids, generator):
        seen.append((bool(torch.is_grad_enabled()), int(ids.min()) // 100, int(ids.max()) // 100))
        from wye.moe.learning.training import next_token_loss

        return next_token_loss(model, ids, generator)

    shape = Shape(n_layers=1, width=WIDTH, hidden=4, n_experts=EXPERTS, k=K)
    torch.manual_seed(0)
    model = LanguageModel.build(
        "global-batch-lbl", shape, length=8, n_heads=2, options={"scope": "exact"}
    )
    train(model, texts, steps=6, batch=2, length=8, micro_batches=2, objective=objective)
    steps = [seen[i : i + 4] for i in range(0, 24, 4)]
    for first, second, third, fourth in steps:
        assert not first[0]
        assert third[0]
        assert (first[1:], second[1:]) == (third[1:], fourth[1:])
        assert {first[1], second[1]} == {0, 1}
        assert first[1] == first[2]
    assert len({s[0][1] for s in steps}) == 2


def test_losses_are_read_by_aux_loss():
    layer = made("buffer", weight=0.5)
    layer(micro_batches(1)[0])
    assert float(aux_loss(layer)) == pytest.approx(0.5, rel=0.5)


def test_the_router_can_stand_alone():
    router = get_router("global_batch_lbl", WIDTH, EXPERTS, scope="ranks").train()
    x = micro_batches(1)[0]
    assert "balance" in router(x, make_context(x)).losses


def test_loads_counted_over_two_processes_give_the_loss_of_one(tmp_path):
    worker = Path(__file__).with_name("ranks_worker.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), "2", str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    failed = [text for process, text in zip(processes, said, strict=True) if process.returncode]
    assert not failed, failed[0]
