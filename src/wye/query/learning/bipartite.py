"""Message passing on a graph of queries and models whose known edges carry outcomes.

    x_q = [e_t W_t + b_t ; e_q W_q + b_q],   x_m = e_m W_m + b_m
    g_qm = leaky(f_qm W_e),   f_qm = [U, C, E] of a visible edge
    layer:  x'_m = mean over visible q of (x_q W_msg + g_qm W_edge) + x_m W_self + b
            x'_q = x_q W_self + b         (edges go from queries to models: nothing comes in)
    x1 = leaky(norm(layer1(x0))),   x2 = norm(layer2(x1))
    y_qm = sigmoid(mean over the 2h coordinates of x0_q * x2_m)

Source: GraphRouter, arXiv 2410.03834. Where its code sums over edges and normalises over all nodes
of a batch, this takes means, so that the state of a model does not grow with the log, and
normalises each node by itself (layer normalisation): with a handful of models beside thousands of
queries, statistics over nodes are those of the queries. `visible` is a mask `[Q, M]`, so the mean
over edges is a product with it; nothing is computed edge by edge.

The functions take NumPy arrays or PyTorch tensors alike: what was learned with one predicts with
the other.

Shape letters: Q queries, M models, D embedding width, h hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wye.query.base import FloatArray, RouterError
from wye.query.learning.heads import require_torch

EDGE_FEATURES = 3
SLOPE, EPSILON = 0.01, 1e-5
LAYERS = ("1", "2")
VALIDATE_EVERY = 5

# Arrays of either library: NumPy's while predicting, PyTorch's while learning.
Parameters = Mapping[str, Any]


def start(width: int, task_width: int, model_width: int, hidden: int, seed: int) -> dict[str, Any]:
    """First parameters, under which coordinates of x0 of unit vectors have a variance of about 1.

    Args:
        width, task_width, model_width: of the embeddings of queries, tasks and models.
        hidden: h.
        seed: of the draws.
    """
    draw = np.random.default_rng(seed).standard_normal
    parameters = {
        "query": draw((width, hidden)),
        "query_bias": np.zeros(hidden),
        "task": draw((task_width, hidden)),
        "task_bias": np.zeros(hidden),
        "model": draw((model_width, 2 * hidden)),
        "model_bias": np.zeros(2 * hidden),
        "edge_features": np.eye(EDGE_FEATURES),
    }
    for layer in LAYERS:
        parameters |= {
            f"message{layer}": draw((2 * hidden, 2 * hidden)) / np.sqrt(2 * hidden),
            f"edge{layer}": draw((EDGE_FEATURES, 2 * hidden)),
            f"self{layer}": draw((2 * hidden, 2 * hidden)) / np.sqrt(2 * hidden),
            f"bias{layer}": np.zeros(2 * hidden),
            f"gain{layer}": np.ones(2 * hidden),
            f"shift{layer}": np.zeros(2 * hidden),
        }
    return {name: np.asarray(value, np.float32) for name, value in parameters.items()}


def query_nodes(p: Parameters, queries: Any, tasks: Any) -> tuple[Any, Any]:
    """The two halves of x0 of queries, `[Q, h]` each, from embeddings `[Q, D]` of text and task."""
    return tasks @ p["task"] + p["task_bias"], queries @ p["query"] + p["query_bias"]


def model_nodes(
    p: Parameters, halves: tuple[Any, Any], models: Any, edges: Any, visible: Any
) -> Any:
    """x2 of the M models, `[M, 2h]`; with B masks at once `[B, M, 2h]`.

    Args:
        p: parameters.
        halves: of the queries, see `query_nodes`.
        models: `[M, D]` embeddings of the models' descriptions.
        edges: `[Q, M, 3]` features of the edges; what is not visible is not read, but is finite.
        visible: `[Q, M]` or `[B, Q, M]`, 1.0 for a visible edge, 0.0 for any other.
    """
    share, g, x_m = _start_of_models(p, models, edges, visible)
    x_t, x_q = halves
    for layer in LAYERS:
        x_m = _normalised(_received(p, layer, share, g, x_t, x_q, x_m))
        x_m = x_m * p[f"gain{layer}"] + p[f"shift{layer}"]
        if layer == LAYERS[0]:
            x_m = _leaky(x_m)
            x_t, x_q = _passed_on(p, layer, x_t, x_q)
    return x_m


def edge_contributions(
    p: Parameters,
    halves: tuple[Any, Any],
    models: Any,
    edges: Any,
    visible: Any,
    asked: tuple[Any, Any],
) -> FloatArray:
    """What each visible edge adds to the logits of one query, `[Q, M]`; 0 for any other edge.

    Gradient times input at the last messages: with a_m what reaches model m before the last
    normalisation, the entry of edge (r, m) is d logit_m / d a_m times that edge's part of the mean.

    Args:
        p, halves, models, edges, visible: see `model_nodes`, in NumPy, one mask.
        asked: the halves of the query, `[1, h]` each.
    """
    share, g, x_m = _start_of_models(p, models, edges, visible)
    first, last = LAYERS
    x_m = _normalised(_received(p, first, share, g, *halves, x_m))
    x_m = _leaky(x_m * p[f"gain{first}"] + p[f"shift{first}"])
    x_t, x_q = _passed_on(p, first, *halves)
    a = _received(p, last, share, g, x_t, x_q, x_m)
    z = _normalised(a)
    deviation = np.sqrt(a.var(axis=1, keepdims=True) + EPSILON)
    v = np.concatenate(asked, axis=1) * p[f"gain{last}"] / a.shape[1]
    slope = (v - v.mean() - z * (v * z).mean(axis=1, keepdims=True)) / deviation
    said = np.concatenate([x_t, x_q], axis=1) @ p[f"message{last}"]
    edge = (g.swapaxes(0, 1) * (slope @ p[f"edge{last}"].T)).sum(axis=2)
    return np.asarray(share.T * (said @ slope.T + edge), np.float64)


def edge_logits(halves: tuple[Any, Any], models: Any) -> Any:
    """`[Q, M]` or `[B, Q, M]` mean over coordinates of x0_q * x2_m; its sigmoid is y."""
    x_t, x_q = halves
    hidden = x_t.shape[1]
    t, q = models[..., :hidden].swapaxes(-1, -2), models[..., hidden:].swapaxes(-1, -2)
    return (x_t @ t + x_q @ q) / (2 * hidden)


def _start_of_models(p: Parameters, models: Any, edges: Any, visible: Any) -> tuple[Any, Any, Any]:
    """Shares `[.., M, Q]` of the visible edges in each mean, g `[M, Q, 3]`, and x0 `[M, 2h]`."""
    count = visible.sum(-2)[..., None]
    # A model without visible edges receives nothing.
    share = visible.swapaxes(-1, -2) / (count + (count == 0))
    g = _leaky(edges @ p["edge_features"]).swapaxes(0, 1)
    return share, g, models @ p["model"] + p["model_bias"]


def _received(p: Parameters, layer: str, share: Any, g: Any, x_t: Any, x_q: Any, x_m: Any) -> Any:
    """What reaches the models in one layer, before it is normalised."""
    message, hidden = p[f"message{layer}"], x_t.shape[1]
    # [.., M, 1, Q] @ [M, Q, 3]: the mean over visible edges of each model.
    seen = (share[..., None, :] @ g)[..., 0, :]
    arriving = (share @ x_t) @ message[:hidden] + (share @ x_q) @ message[hidden:]
    return arriving + seen @ p[f"edge{layer}"] + x_m @ p[f"self{layer}"] + p[f"bias{layer}"]


def _passed_on(p: Parameters, layer: str, x_t: Any, x_q: Any) -> tuple[Any, Any]:
    own, hidden = p[f"self{layer}"], x_t.shape[1]
    x = x_t @ own[:hidden] + x_q @ own[hidden:] + p[f"bias{layer}"]
    x = _leaky(_normalised(x) * p[f"gain{layer}"] + p[f"shift{layer}"])
    return x[:, :hidden], x[:, hidden:]


def _normalised(x: Any) -> Any:
    centred = x - x.mean(-1)[..., None]
    return centred / (((centred**2).mean(-1) + EPSILON) ** 0.5)[..., None]


def _leaky(x: Any) -> Any:
    # max(x, 0) = (x + |x|) / 2, in words that both libraries know.
    return SLOPE * x + (1.0 - SLOPE) * (x + abs(x)) / 2.0


def train_graph(
    system: str,
    parameters: Mapping[str, NDArray[np.float32]],
    nodes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    edges: NDArray[np.float32],
    known: NDArray[np.bool_],
    labels: FloatArray,
    validate: Callable[[Parameters], tuple[float, float]],
    *,
    steps: int,
    draws: int,
    visible_share: float,
    learning_rate: float,
    weight_decay: float,
    seed: int,
) -> dict[str, NDArray[np.float32]]:
    """Learn to predict hidden edges from visible ones, by AdamW; best by `validate` returns.

    Each step draws `draws` masks over all known edges: a share of them is visible, and the others
    are predicted. An edge is never both: its features hold its label.

    Args:
        system: who learns, for errors.
        parameters: where they start.
        nodes: embeddings of queries `[Q, D]`, of their tasks `[Q, D]` and of models `[M, D]`.
        edges: `[Q, M, 3]` features.
        known: `[Q, M]` edges that there are.
        labels: `[Q, M]` 1 where the model is best, else 0; NaN where nothing is asked.
        validate: of parameters (NumPy) the reward on other queries and, for equals, their mean
            log-likelihood; asked every few steps.
        steps, draws: optimiser steps, masks of each.
        visible_share: of the known edges that is visible, 0 to 1 exclusive; 0 hides all.
        learning_rate, weight_decay: of AdamW.
        seed: of the masks.

    Raises:
        RouterError: PyTorch is not installed, or the loss stops being a number.
    """
    torch = require_torch(system)
    generator = torch.Generator().manual_seed(seed)
    p = {k: torch.tensor(v, requires_grad=True) for k, v in parameters.items()}
    queries, tasks, models = (torch.from_numpy(np.asarray(n, np.float32)) for n in nodes)
    features, there = torch.from_numpy(edges), torch.from_numpy(known)
    asked = there & torch.from_numpy(np.isfinite(labels))
    target = torch.from_numpy(np.nan_to_num(labels).astype(np.float32))
    optimiser = torch.optim.AdamW(
        list(p.values()), lr=learning_rate, weight_decay=weight_decay, fused=True
    )
    best, kept = (-np.inf, -np.inf), dict(parameters)
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        halves = query_nodes(p, queries, tasks)
        shown = there & (torch.rand((draws, *known.shape), generator=generator) < visible_share)
        logits = edge_logits(halves, model_nodes(p, halves, models, features, shown.float()))
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, target.expand_as(logits), reduction="none"
        )
        hidden = (asked & ~shown).float()
        loss = ((each * hidden).sum((1, 2)) / hidden.sum((1, 2)).clamp(min=1.0)).mean()
        if not torch.isfinite(loss):
            raise RouterError(
                f"the loss of {system} is {loss.item()}; lower learning_rate={learning_rate}"
            )
        loss.backward()
        optimiser.step()
        if step % VALIDATE_EVERY == 0 or step == steps:
            arrays = {k: v.detach().numpy().copy() for k, v in p.items()}
            # On few queries many steps route alike; of those the best probabilities win.
            value = validate(arrays)
            if value > best:
                best, kept = value, arrays
    return kept
