"""The table `[store]` of `wye.toml`: where decisions, outcomes, keys and money are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from wye.gateway.dialects import PASSWORD_ENV, Place, StoreError, place_of

_PROBLEM = "store"


class StoreTable(BaseModel):
    """Where decisions and outcomes are kept.

    Attributes:
        path: a SQLite file; in the user's state folder when neither it nor `url` is given.
        url: `postgresql+psycopg://USER@HOST:PORT/DATABASE`, for gateways on many machines.
        password_env: environment variable with the password of `url`.
        connections: most connections to PostgreSQL at once, besides the one of the ledger.
        batch_seconds: a crash loses at most this much of what requests left.
        max_pending: most records that wait while the store cannot be written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path | None = None
    url: str | None = None
    password_env: str = PASSWORD_ENV
    connections: Annotated[int, Field(ge=1, le=100)] = 8
    store_prompts: bool | None = None
    batch_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    max_pending: Annotated[int, Field(ge=1)] = 10_000

    def place(self) -> Place:
        """Where the store is, with its password.

        Raises:
            StoreError: `url` cannot be used.
        """
        if self.url is not None:
            return place_of(self.url, self.password_env)
        if self.path is not None:
            return self.path
        from platformdirs import user_state_path

        return user_state_path("wye") / "gateway.db"

    @model_validator(mode="after")
    def _one_place(self) -> StoreTable:
        if self.url is None:
            return self
        if self.path is not None:
            raise PydanticCustomError(
                _PROBLEM, "`path` and `url` name two stores; leave one of them out"
            )
        if "://" not in self.url:
            raise PydanticCustomError(
                _PROBLEM, "`url` is a file's path; name a SQLite file with `path`"
            )
        if self.password_env != PASSWORD_ENV and not os.environ.get(self.password_env):
            raise PydanticCustomError(
                _PROBLEM,
                "`password_env` names the environment variable {name}, which is not set; set it to "
                "the password of the store's user, or remove the line",
                {"name": self.password_env},
            )
        try:
            self.place()
        except StoreError as error:
            raise PydanticCustomError(_PROBLEM, "{why}", {"why": str(error)}) from None
        return self
