"""Every system of the expert scale keeps the contract, and systems that break it are found out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.core import Plan, expert_choice, top_k
from wye.moe import Contracts, Routing, Shape, system_names
from wye.moe.base import Context, Router
from wye.moe.build import routed_stack
from wye.moe.parts.balance import LossFreeBias
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import LinearScores
from wye.moe.parts.selection import Capped, TopK
from wye.moe.router import ComposedRouter
from wye.testing import MOE_SYSTEM_CHECKS, check_moe_system
from wye.testing.moe_model import SHAPE, as_builder

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("check", MOE_SYSTEM_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("system", system_names())
def test_a_system_keeps_the_contract(
    system: str, check: Callable[[Callable[[Shape], list[nn.Module]], Shape], None]
) -> None:
    check(as_builder(system, None), SHAPE)


class Plain(Router):
    """Top-k routing that subclasses break in one place each."""

    def __init__(self, width: int, n_experts: int, k: int) -> None:
        super().__init__(width, n_experts)
        self.linear = nn.Linear(width, n_experts, bias=False)
        self.k = k

    def forward(self, x_SD: Tensor, context: Context) -> Routing:
        self.check_width(x_SD)
        with torch.autocast(x_SD.device.type, enabled=False):
            logits = F.linear(x_SD.float(), self.linear.weight.float())
            p = self.affinity(logits)
            return Routing(self.choose(p, context), logits, p, self.extra(logits))

    def affinity(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, dim=-1)

    def choose(self, p: Tensor, context: Context) -> Plan:
        return top_k(p, self.k)

    def extra(self, logits: Tensor) -> dict[str, Tensor]:
        return {}

    def weigh(self, plan: Plan, routing: Routing) -> Plan:
        return plan.with_weight(routing.probabilities[plan.source, plan.target])


class SeesTheFuture(Plain):
    def choose(self, p: Tensor, context: Context) -> Plan:
        if p.shape[0] == 0:
            return top_k(p, self.k)
        return expert_choice(p, max(1, p.shape[0] * self.k // p.shape[1]))


class DeclaresTheFuture(SeesTheFuture):
    contracts = Contracts(causal=False, batch_invariant=False, padding=False)


class Forgets(Plain):
    """Keeps what it learned outside of its state."""

    def __init__(self, width: int, n_experts: int, k: int) -> None:
        super().__init__(width, n_experts, k)
        self.scale = 1.0

    def affinity(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits * self.scale, dim=-1)

    def after_step(self) -> None:
        self.scale += 0.5


class Restless(Plain):
    def affinity(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits + torch.randn_like(logits), dim=-1)


class LowPrecision(Plain):
    def affinity(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits.bfloat16(), dim=-1)


class SilentAboutNaN(Plain):
    def choose(self, p: Tensor, context: Context) -> Plan:
        return top_k(p.nan_to_num(0.0), self.k)

    def affinity(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, dim=-1).nan_to_num(0.0)


class WithoutGradient(Plain):
    def affinity(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits, dim=-1).detach()


class LossAtEvaluation(Plain):
    def extra(self, logits: Tensor) -> dict[str, Tensor]:
        return {"z": logits.square().mean()}


class MovesParameters(Plain):
    @torch.no_grad()
    def after_step(self) -> None:
        self.linear.weight += 0.01


class ReplaysOtherwise(Plain):
    def weigh(self, plan: Plan, routing: Routing) -> Plan:
        return plan.with_weight(torch.full_like(plan.weight, 0.5))


class DependsOnPlaces(Plain):
    """Counts padding as tokens: its choice depends on where a token stands in the grid."""

    def choose(self, p: Tensor, context: Context) -> Plan:
        turn = context.position(p.device) % p.shape[1]
        rows = torch.arange(p.shape[1])
        return top_k(p + (rows == turn[:, None]).float() * 5, self.k)


class CountsTwice(LossFreeBias):
    """Counts the second run under activation checkpointing as well."""

    def losses(self, routed):  # type: ignore[no-untyped-def]
        self._load_E = self.load + routed.plan.load() * (1 + torch.arange(len(self.bias_E)))
        self.bias_E += 0.01
        return {}


def _stack(kind: type[Plain]) -> Callable[[Shape], list[nn.Module]]:
    return lambda shape: routed_stack(shape, lambda _: kind(shape.width, shape.n_experts, shape.k))


@pytest.mark.parametrize("kind", [Plain, DeclaresTheFuture])
def test_a_sound_system_passes_whole(kind: type[Plain]) -> None:
    check_moe_system(_stack(kind))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (SeesTheFuture, "not causal"),
        (Forgets, "something is not saved"),
        (Restless, "the second evaluation differs"),
        (LowPrecision, "expected float32"),
        (SilentAboutNaN, "routed silently"),
        (WithoutGradient, "no gradient reaches the router"),
        (LossAtEvaluation, "in evaluation has losses"),
        (MovesParameters, "after_step changed"),
        (ReplaysOtherwise, "replaying a recorded pass"),
        (DependsOnPlaces, "on the left changed the output"),
    ],
)
def test_a_system_broken_in_one_place_is_found_out(kind: type[Plain], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_moe_system(_stack(kind))


def test_a_router_that_counts_recomputation_is_found_out() -> None:
    def build(shape: Shape) -> list[nn.Module]:
        return routed_stack(
            shape,
            lambda _: ComposedRouter(
                shape.width,
                LinearScores(shape.width, shape.n_experts),
                gate=Gate(),
                selection=TopK(shape.k),
                balance=[CountsTwice(shape.n_experts)],
            ),
        )

    with pytest.raises(AssertionError, match="under checkpointing"):
        check_moe_system(build)


def test_capacity_at_evaluation_that_is_declared_harmless_is_found_out() -> None:
    def build(shape: Shape) -> list[nn.Module]:
        cap = {"factor": 0.5, "eval_factor": 0.5, "minimum": 1}
        return routed_stack(
            shape,
            lambda _: ComposedRouter(
                shape.width,
                LinearScores(shape.width, shape.n_experts, init_std=1.0),
                gate=Gate(),
                selection=Capped(TopK(shape.k), **cap),  # type: ignore[arg-type]
            ),
        )

    with pytest.raises(AssertionError, match="changed the output"):
        check_moe_system(build)
