"""The table `[money]` of `wye.toml`: how limits of virtual keys are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class MoneyTable(BaseModel):
    """How limits of virtual keys are kept; keys themselves live in the store.

    Attributes:
        default_max_output: output tokens to reserve for where neither the request nor the target
            (`max_output`, `context`) limits them.
        rate_limits: "store" counts requests and tokens per minute exactly over every gateway of the
            store, at one transaction a request; "memory" counts them in each gateway for itself.
        key_seconds: longest time until a change of a key is seen by a running gateway.
        lease_seconds: a gateway not heard of for so long is taken for dead, and what it had
            reserved for spent.
        session_days: a session that was silent for so long is forgotten, and begins anew with its
            whole budget when it comes back.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    default_max_output: Annotated[int, Field(ge=1)] = 16_384
    rate_limits: Literal["store", "memory"] = "store"
    key_seconds: _Seconds = 1.0
    lease_seconds: _Seconds = 30.0
    session_days: _Seconds = 30.0
