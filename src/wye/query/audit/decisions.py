"""Decisions of any router in an audit chain, and their replay.

A record holds a decision as it was made and the SHA-256 of the query's text (the text itself only
where it is asked for). A replay asks the router and the policy again and compares: the target must
be the same, figures may differ by the rounding of another batch.

Shape letters: Q queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from wye.core.audit import AuditError, AuditLog, AuditRecord, digest
from wye.query.decisions import as_dict

if TYPE_CHECKING:
    from wye.query.base import QueryRouter, Routing
    from wye.query.policy import Policy

DECISION = "decision"
# Single precision, in which embeddings are compared, rounds differently in batches of other sizes.
ROUNDING = 1e-4
_CANDIDATE_FIGURES = ("quality", "quality_std", "cost_usd", "score")


def record_decisions(
    log: AuditLog,
    texts: Sequence[str],
    routing: Routing,
    *,
    seed: int | None = None,
    keep_text: bool = False,
) -> list[AuditRecord]:
    """Enter every decision of `routing` into `log`, in order.

    Args:
        log: an `AuditChain` or an `AuditFile`.
        texts: the Q queries that were routed.
        routing: what `QueryRouter.route` returned for them.
        seed: that `route` was given; a policy that draws cannot be replayed without one.
        keep_text: whether the records hold the texts themselves.

    Raises:
        AuditError: not as many texts as decisions.
    """
    if len(texts) != len(routing.decisions):
        raise AuditError(
            f"{len(texts)} texts for {len(routing.decisions)} decisions; give those routed"
        )
    records = []
    for place, (text, decision) in enumerate(zip(texts, routing.decisions, strict=True)):
        body: dict[str, Any] = {
            "task": digest(text),
            "place": place,
            "batch": len(texts),
            "seed": seed,
            "decision": as_dict(decision),
        }
        if keep_text:
            body["text"] = text
        records.append(log.append(DECISION, body))
    return records


def replay_decisions(
    records: Iterable[AuditRecord],
    router: QueryRouter,
    policy: Policy | None = None,
    texts: Sequence[str] = (),
) -> int:
    """Decide again what `records` say was decided, and require the same.

    Args:
        records: of a chain that was verified; records of other steps are passed over.
        router, policy: as they decided. A stateful policy is given fresh, with all of its records.
        texts: those of which the records hold only the hash, in any order.

    Returns:
        How many decisions were replayed.

    Raises:
        AuditError: a text is missing, a batch is incomplete, or a decision comes out otherwise.
    """
    known = {digest(text): text for text in texts}
    done = 0
    for batch in _batches(records):
        asked = [_text(record, known) for record in batch]
        routing = router.route(asked, policy, seed=batch[0].body["seed"])
        for record, decision in zip(batch, routing.decisions, strict=True):
            difference = _difference(record.body["decision"], as_dict(decision))
            if difference:
                raise AuditError(f"record {record.index} is decided otherwise now: {difference}")
        done += len(batch)
    return done


def _batches(records: Iterable[AuditRecord]) -> Iterable[list[AuditRecord]]:
    """Decisions that were made together: a policy may draw, or pay, for all of a batch at once."""
    open_batch: list[AuditRecord] = []
    for record in records:
        if record.step != DECISION:
            continue
        if record.body["place"] != len(open_batch):
            raise AuditError(
                f"record {record.index} is decision {record.body['place']} of its batch, expected "
                f"{len(open_batch)}; replay whole batches"
            )
        open_batch.append(record)
        if len(open_batch) == record.body["batch"]:
            yield open_batch
            open_batch = []
    if open_batch:
        raise AuditError(
            f"the last batch has {len(open_batch)} of {open_batch[0].body['batch']} decisions"
        )


def _text(record: AuditRecord, known: dict[str, str]) -> str:
    text = record.body.get("text", known.get(record.body["task"]))
    if text is None:
        raise AuditError(
            f"record {record.index} holds only the hash of its text, which is none of the texts "
            "given; pass it in `texts`"
        )
    if digest(text) != record.body["task"]:
        raise AuditError(f"the text in record {record.index} is not the one that was routed")
    return str(text)


def _difference(was: dict[str, Any], now: dict[str, Any]) -> str:
    """What sets two decisions apart, in words; empty where nothing does."""
    for name in ("router", "policy", "target"):
        if was[name] != now[name]:
            return f"{name} was {was[name]!r}, is {now[name]!r}"
    if not _close(was["propensity"], now["propensity"]):
        return f"propensity was {was['propensity']}, is {now['propensity']}"
    before = {c["target"]: c for c in was["candidates"]}
    after = {c["target"]: c for c in now["candidates"]}
    if before.keys() != after.keys():
        return f"candidates were {sorted(before)}, are {sorted(after)}"
    for target, old in before.items():
        for name in _CANDIDATE_FIGURES:
            if not _close(old[name], after[target][name]):
                return f"{name} of {target} was {old[name]}, is {after[target][name]}"
    return ""


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)
