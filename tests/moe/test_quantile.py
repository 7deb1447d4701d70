"""The running quantile: equal to PyTorch's on one batch, known before the batch it judges."""

from __future__ import annotations

import math

import pytest
import torch

from wye.moe.base import MoEError
from wye.moe.parts.quantile import RunningQuantile, quantile

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("n", [1, 2, 7, 31])
def test_the_quantile_of_a_batch_is_that_of_pytorch(level: float, n: int) -> None:
    values = torch.randn(n, 3, generator=torch.Generator().manual_seed(n))
    assert torch.allclose(quantile(values, level), torch.quantile(values, level, dim=0), atol=1e-6)


def test_a_batch_is_judged_by_the_batches_before_it() -> None:
    running = RunningQuantile(0.5, columns=2, momentum=0.5)
    first, second = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 7.0]])
    assert running.observe(first).tolist() == [1.0, 5.0]
    assert running.observe(second).tolist() == [1.0, 5.0]
    assert running.value.tolist() == [2.0, 6.0]


def test_early_batches_count_alike_and_later_ones_by_the_momentum() -> None:
    running = RunningQuantile(1.0, momentum=0.75)
    for value in (0.0, 2.0, 4.0, 6.0):
        running.observe(torch.tensor([[value]]))
    assert running.value.item() == pytest.approx(3.0)
    running.observe(torch.tensor([[7.0]]))
    assert running.value.item() == pytest.approx(4.0)


def test_everything_passes_at_level_zero_and_before_anything_was_seen() -> None:
    assert RunningQuantile(0.5).value.item() == -math.inf
    running = RunningQuantile(0.0)
    assert running.observe(torch.tensor([[3.0]])).item() == -math.inf
    assert running.value.item() == -math.inf


def test_an_empty_batch_changes_nothing() -> None:
    running = RunningQuantile(0.5)
    running.observe(torch.tensor([[1.0]]))
    running.observe(torch.empty(0, 1))
    assert running.value.item() == 1.0
    assert int(running.batches) == 1


def test_recomputation_sees_the_threshold_of_the_pass_that_it_repeats() -> None:
    running = RunningQuantile(0.5, momentum=0.5)
    running.observe(torch.tensor([[1.0]]))
    seen: list[float] = []

    def thresholded(x: torch.Tensor) -> torch.Tensor:
        seen.append(running.observe(x).item())
        return x * x

    x = torch.tensor([[9.0]], requires_grad=True)
    torch.utils.checkpoint.checkpoint(thresholded, x, use_reentrant=False).sum().backward()
    assert seen == [1.0, 1.0]
    assert int(running.batches) == 2


def test_the_threshold_is_saved_and_loaded() -> None:
    running, fresh = RunningQuantile(0.5), RunningQuantile(0.5)
    running.observe(torch.tensor([[4.0]]))
    fresh.load_state_dict(running.state_dict())
    assert fresh.value.item() == 4.0


def test_the_threshold_stays_float32_in_a_model_of_half_precision() -> None:
    running = RunningQuantile(0.5).bfloat16()
    running.observe(torch.tensor([[1.001]], dtype=torch.bfloat16))
    assert running.observe(torch.tensor([[1.0]])).dtype == torch.float32


def test_bad_input_is_refused() -> None:
    with pytest.raises(MoEError, match=r"level=1\.5"):
        RunningQuantile(1.5)
    with pytest.raises(MoEError, match="columns=0"):
        RunningQuantile(0.5, columns=0)
    with pytest.raises(MoEError, match=r"expected \[S, 1\]"):
        RunningQuantile(0.5).observe(torch.zeros(3, 2))
