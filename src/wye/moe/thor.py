"""THOR: stochastic experts, no router at all.

A whole batch -> one expert per layer in training, a sentence (or token) -> one expert per layer
afterwards, drawn uniformly at random, on no information (Zuo et al. 2021, arXiv 2110.04260).
Every second feed-forward layer (index 0, 2, 4, ...) has N experts, the others are dense. Training
runs every batch twice with independent draws and ties the predictions p and q together:
    loss = loss_1 + loss_2 + alpha * 1/2 sum (p - q)(log p - log q)
which `wye.moe.learning.consistency` computes; experts that agree can stand in for one another, so
that one draw is enough afterwards. alpha is 1 to 5 in the paper (5 with N = 2 on IWSLT'14).

The paper says that experts are drawn per input, the authors' release draws per batch: the default
here. In evaluation the default is one draw per sentence, a hash of its first token, so that results
repeat (ours); `wye.moe.parts.draws.inference` gives a generator, another unit, the mean of all
experts ("ensemble", ours) or expert 0 ("fixed"). Beams of one sentence must share its draw:
`same_draws`.

In a model of somebody else's, `wye.attach(model, "thor", every=1)` gives every layer its own draws.
An untrained or badly trained set of experts does not agree: the published gains are in low-data
translation, where the second term regularises.
"""

from __future__ import annotations

from torch import nn

from wye.moe.base import MoEError
from wye.moe.build import Shape
from wye.moe.experts import Experts, FeedForward
from wye.moe.layer import MoELayer
from wye.moe.parts.draws import Inference, UniformDraw, Unit
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import NoScores
from wye.moe.router import ComposedRouter


def router(
    width: int,
    n_experts: int,
    *,
    draw: Unit = "batch",
    inference: Inference = "sentence",
    layer: int = 0,
    seed: int = 0,
) -> ComposedRouter:
    """Draws one expert, gate 1.

    Args:
        width: D.
        n_experts: N.
        draw, inference, layer, seed: as in `UniformDraw`.
    """
    return ComposedRouter(
        width,
        NoScores(n_experts),
        gate=Gate(normalise=True),
        selection=UniformDraw(draw=draw, inference=inference, layer=layer, seed=seed),
    )


def build(
    shape: Shape,
    *,
    every: int = 2,
    draw: Unit = "batch",
    inference: Inference = "sentence",
    seed: int = 0,
    activation: str = "relu",
    gated: bool = False,
) -> list[nn.Module]:
    """Feed-forward layers of which every second one, from the first, has experts.

    Args:
        shape: sizes; `n_layers` counts dense layers too, and k is 1 by definition.
        every: 1 gives all layers experts.
        draw, inference, seed: as in `UniformDraw`.
        activation, gated: of experts and dense layers.

    Raises:
        MoEError: `every` below 1.
    """
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise MoEError(f"every={every!r}, expected an integer of at least 1")

    def layer(index: int) -> nn.Module:
        if index % every:
            return FeedForward(shape.width, shape.hidden, activation=activation, gated=gated)
        return MoELayer(
            router(
                shape.width,
                shape.n_experts,
                draw=draw,
                inference=inference,
                layer=index,
                seed=seed,
            ),
            Experts(shape.n_experts, shape.width, shape.hidden, activation=activation, gated=gated),
        )

    return [layer(index) for index in range(shape.n_layers)]
