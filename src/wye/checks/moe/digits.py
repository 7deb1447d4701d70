"""scikit-learn's digits, 1,797 real images, in two parts that never change."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Digits(NamedTuple):
    """Images `[n, 1, 8, 8]` in [-1, 1] and labels `[n]`."""

    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor


@lru_cache(maxsize=2)
def digits(n_train: int = 1437) -> Digits:
    """The images, `n_train` of them (four fifths) for training."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    order = np.random.default_rng(0).permutation(len(loaded.target))
    images = torch.tensor(loaded.images[order] / 8.0 - 1.0, dtype=torch.float32)[:, None]
    labels = torch.tensor(loaded.target[order], dtype=torch.int64)
    return Digits(images[:n_train], labels[:n_train], images[n_train:], labels[n_train:])
