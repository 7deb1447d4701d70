"""The table `[conversation]` and `prompt_cache` of a target in `wye.toml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# How a provider fills its cache: by itself, only where the request marks it, or not at all.
Rule = Literal["automatic", "marked", "none"]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ConversationTable(BaseModel):
    """Whether the cost of losing a provider's prompt cache is part of the choice.

    It costs nothing where no target has a price for cached input that is below its input price.

    Attributes:
        switching_cost: count what is cached where.
        follow: "prefix" tells a conversation by the content of its messages, as providers' caches
            do; "session" trusts `x-wye-session` where the client sends it, and reads no messages.
        further_turns: how many more turns of about the same length the choice is made for. 0 counts
            this turn alone, so the expected cost is what this turn costs; with F the cost is the
            mean over this turn and F more at the same target.
        max_prefixes: most prefixes that are remembered; the one unused for longest goes first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    switching_cost: bool = True
    follow: Literal["prefix", "session"] = "prefix"
    further_turns: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    max_prefixes: Annotated[int, Field(ge=1)] = 20_000


class PromptCacheTable(BaseModel):
    """How a target's provider caches prompts.

    The defaults are the providers' documented rules: OpenAI caches prompts from 1,024 tokens on, in
    steps of 128, for 5 to 10 minutes since they were last read; Anthropic caches what the request
    marks with `cache_control`, for 5 minutes.

    Attributes:
        rule: "automatic" every prompt that is long enough; "marked" what the request marks with
            `cache_control`; "none" nothing. Where it is not given: "marked" for kind "anthropic",
            else "automatic".
        min_tokens: shortest prefix that is cached.
        step_tokens: what is cached automatically is a whole number of these.
        seconds: how long a prefix is kept after it was last used.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: Rule | None = None
    min_tokens: Annotated[int, Field(ge=1)] = 1024
    step_tokens: Annotated[int, Field(ge=1)] = 128
    seconds: _Seconds = 300.0
