"""One training step of the small language model of the checks, routed against dense.

3 layers, D 64, 16 windows of 64 bytes. Routed: 8 experts of width 48, top 2. Dense: one network of
width 96, the same multiplications per token. Rounds alternate, so that both meet the same machine;
the ratio is that of the medians.

    python bench/moe/training_step.py --rounds 5 --system top_k
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from wye.checks.moe.corpus import python_source
from wye.moe import FeedForward, LanguageModel, Shape, train

STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--system", default="top_k")
    given = parser.parse_args()
    torch.set_num_threads(1)
    text = python_source(1_000_000)
    shape = Shape(n_layers=3, width=64, hidden=48, n_experts=8, k=2)
    models = {
        "dense": LanguageModel([FeedForward(64, 96) for _ in range(3)], width=64, length=64),
        given.system: LanguageModel.build(given.system, shape, length=64),
    }
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(given.rounds):
        for name, model in models.items():
            seconds[name].extend(train(model, text, steps=STEPS).seconds[2:])
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    for name, median in medians.items():
        least = min(seconds[name])
        print(f"{name:12} median {1e3 * median:6.1f} ms, least {1e3 * least:6.1f} ms a step")
    print(f"{given.system} / dense = {medians[given.system] / medians['dense']:.2f}")


if __name__ == "__main__":
    main()
