"""The table `[answer_cache]` of `wye.toml`; without it no answer is kept."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class AnswerCacheTable(BaseModel):
    """Which answers are given again.

    Attributes:
        ttl_seconds: how long an answer is good.
        max_mb: most that answers take, in memory (the one unused for longest goes first) and in the
            store (the oldest goes first).
        max_answer_kb: a longer answer is not kept.
        keep_in_store: whether answers go to the store too, so that they outlive the gateway and
            other gateways find them. Answers are users' content: where prompts are not stored, or
            what is stored is redacted, they stay in memory.
        shared: whether a key may get what another key asked for; else each key has its own answers,
            and requests without a key have theirs.
        sampled: whether a request that asks for a temperature above 0, and gives no seed, may get
            an answer that was given before.
        semantic: whether an ask may get the answer to one that is nearly the same.
        threshold: least cosine of the two asks' vectors for that.
        max_characters: a longer ask is compared exactly.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttl_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600.0
    max_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 64.0
    max_answer_kb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 256.0
    keep_in_store: bool = True
    shared: bool = False
    sampled: bool = False
    semantic: bool = False
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.98
    max_characters: Annotated[int, Field(ge=1)] = 400
