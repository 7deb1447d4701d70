"""`[learning]` of `wye.toml`: how soon a gateway follows the store."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)]


class LearningTable(BaseModel):
    """How soon a change of another process is seen.

    Attributes:
        poll_seconds: between two looks at the store for a version put to use, an experiment begun
            or ended, and feedback for learners.
        analysis_seconds: least time between two analyses of the running experiments.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    poll_seconds: Seconds = 0.5
    analysis_seconds: Seconds = 5.0
