"""What a routed part of a model promises about a token's output."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contracts:
    """What holds of a router in evaluation mode; `wye.testing` checks the declaration.

    Attributes:
        causal: the output of a token does not change when later tokens do.
        batch_invariant: nor when the other sequences of its batch do.
        padding: nor when its sequence is padded.
    """

    causal: bool = True
    batch_invariant: bool = True
    padding: bool = True
