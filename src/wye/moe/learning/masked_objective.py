"""Masked prediction as a training objective: the twin of next-token prediction for encoders.

    hide each token with probability 0.15; loss = mean over the hidden ones of -ln p(x_t | the rest)
For layers that see the whole sequence (expert choice, soft mixtures), with a bidirectional model
of one more id: [MASK] = 256 over bytes.

Source: masked language modelling as in BERT (arXiv 1810.04805, section 3.1), without its random
and unchanged tenths.

Shape letters: B batch, L length.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wye.moe.learning.masked_diffusion import hide

MASK = 256
"""Id of [MASK] over bytes."""
VOCABULARY = 257
"""Bytes and [MASK]."""
SHARE = 0.15


def masked_loss(model: nn.Module, ids: Tensor, generator: Generator) -> Tensor:
    """Mean cross-entropy of hidden tokens, in nats.

    Args:
        model: bidirectional, with a vocabulary of 257.
        ids: `[B, L + 1]` bytes, of which the first of every row is left out, so that the model
            sees as many as in next-token prediction.
        generator: decides what is hidden.
    """
    ids_BL = ids[:, 1:]
    ratio_B = torch.full(ids_BL.shape[:1], SHARE)
    masked = hide(ids_BL, MASK, ratio_B, generator)
    if not bool(masked.hidden_BL.any()):
        # One place at least, or there is nothing to predict.
        masked.hidden_BL[0, 0] = True
        masked.ids_BL[0, 0] = MASK
    logits = model(masked.ids_BL)
    return F.cross_entropy(logits[masked.hidden_BL].float(), ids_BL[masked.hidden_BL])
