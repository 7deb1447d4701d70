"""P(True): a model's own verdict on its answers tells right ones from wrong ones.

Paper: arXiv 2207.05221. SmolLM2-135M is shown recorded answers of the log and says whether they are
right; only the probabilities of its two labels are read. In a log of SmolLM2's own answers, such as
the embedded set, this is the paper's self-evaluation. The paper finds that it needs large models;
this one is small. Baseline in the same run: the recorded confidence of the same answers, where the
log has one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wye.checks.base import CheckError, CheckResult, Claim
from wye.checks.query.trials import averaged

if TYPE_CHECKING:
    from wye.checks.base import CheckContext
    from wye.data import RoutingData
    from wye.query.policies.judging import Answer

SEEDS = 2
ANSWERS = 150
CHANCE = 0.5
_LONGEST = 400


def check(context: CheckContext) -> CheckResult:
    """AUROC and ECE of P(True) on 150 recorded answers for each seed.

    Raises:
        CheckError: the log has no texts of answers, or SmolLM2 is missing.
    """
    from wye.checks.query.smollm_chat import smollm_chat
    from wye.query.uncertainty.calibration import auroc, calibration_error
    from wye.query.uncertainty.p_true import PTrueJudge

    judge = PTrueJudge(smollm_chat())
    rows = []
    seeds = context.seeds[:SEEDS]
    for seed in seeds:
        context.progress(f"seed {seed}")
        texts, answers, right = recorded_answers(context.data, ANSWERS, seed)
        said = np.array([judge.score(t, a) for t, a in zip(texts, answers, strict=True)], float)
        row = {
            "right": float(right.mean()),
            "AUROC P(True)": auroc(said, right),
            "ECE P(True)": calibration_error(said, right),
            "mean P(True)": float(said.mean()),
        }
        known = np.array([np.nan if a.confidence is None else a.confidence for a in answers])
        row["AUROC recorded confidence"] = (
            auroc(known, right) if np.isfinite(known).all() else float("nan")
        )
        rows.append(row)
    figures = averaged(rows)
    claims = (Claim("AUROC P(True)", figures["AUROC P(True)"], ">=", CHANCE),)
    text = (
        f"SmolLM2-135M judges {ANSWERS} recorded answers of {context.data.name} for each seed "
        "by the probabilities of yes and no."
    )
    return CheckResult(claims, figures, seeds, text)


def recorded_answers(
    data: RoutingData, n: int, seed: int
) -> tuple[list[str], list[Answer], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """`n` answers drawn from a log with their questions, and whether each was right.

    Raises:
        CheckError: fewer than `n` answers of known quality and text.
    """
    from wye.query.policies.judging import Answer

    outcomes = data.outcomes
    if "answer" not in outcomes.columns:
        raise CheckError(
            f"{data.name} does not hold the text of its answers; name a set whose outcomes have a "
            "column `answer`, such as the embedded one"
        )
    text = outcomes["answer"].fillna("").astype(str).str.strip()
    kept = outcomes[text.str.len().between(1, _LONGEST) & outcomes["quality"].isin([0.0, 1.0])]
    if len(kept) < n:
        raise CheckError(f"{data.name} has {len(kept)} short answers that are right or wrong")
    drawn = kept.iloc[np.random.default_rng(seed).choice(len(kept), n, replace=False)]
    asked = dict(zip(data.queries["query_id"], data.texts, strict=True))
    confidence = drawn["confidence"] if "confidence" in drawn.columns else [np.nan] * n
    answers = [
        Answer(str(m), str(a).strip(), None if np.isnan(c) else float(c))
        for m, a, c in zip(drawn["model"], drawn["answer"], confidence, strict=True)
    ]
    return [asked[q] for q in drawn["query_id"]], answers, drawn["quality"].to_numpy(np.float64)
