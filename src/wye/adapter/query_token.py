"""Where a query ends: the token whose hidden state a gate over queries reads.

With a chat template the last tokens of every prompt are the same. `constant_tail` counts them, and
a gate that is trained and served with this count reads the last token that the user wrote.

Shape letters: B batch, L length, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wye.adapter.base import AdapterError


def last_query_token(
    attention_mask: Tensor | None, batch: int, length: int, *, tail: int = 0
) -> Tensor:
    """Position of the last token of each query, int64 `[B]`.

    Args:
        attention_mask: `[B, L]`, nonzero at real tokens, padding on either side; None where every
            token is real.
        batch: B.
        length: L.
        tail: constant tokens that follow the query in every prompt.

    Raises:
        AdapterError: a mask of another shape, an empty prompt, or one shorter than the tail.

    Example:
        >>> import torch
        >>> last_query_token(torch.tensor([[1, 1, 0], [0, 1, 1]]), 2, 3).tolist()
        [1, 2]
    """
    if attention_mask is None:
        real = torch.ones((batch, length), dtype=torch.bool)
    elif tuple(attention_mask.shape) == (batch, length):
        real = attention_mask != 0
    else:
        raise AdapterError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, expected [B, L] = "
            f"[{batch}, {length}]: a gate over queries reads the mask of the prompt's tokens; use "
            "a cache that keeps it two-dimensional (the dynamic one) for the prompt"
        )
    counts = real.sum(dim=1)
    if batch and int(counts.min()) <= tail:
        raise AdapterError(
            f"a prompt has {int(counts.min())} tokens, expected more than the tail of {tail} "
            "constant tokens that follow a query"
        )
    places = torch.arange(length, device=real.device)
    # The (count - tail)-th real token, wherever the padding is.
    wanted = real & (real.cumsum(dim=1) == (counts - tail)[:, None])
    return (wanted * places).sum(dim=1)


def states_at(hidden: Tensor, position: Tensor) -> Tensor:
    """Hidden states `[B, D]` of one position `[B]` of each row of `[B, L, D]`."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, position.to(hidden.device)]


def constant_tail(encode: Callable[[str], Sequence[int]]) -> int:
    """How many constant tokens follow a query in what `encode` makes of it.

    Args:
        encode: query -> ids of the whole prompt.

    Example:
        >>> constant_tail(lambda query: [*query.encode(), 0, 1])
        2
    """
    one, other = encode("Which way?"), encode("Tell me 7")
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count
