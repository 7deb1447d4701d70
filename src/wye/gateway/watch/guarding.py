"""The guard in front of the choice: requests that are for no target, or unsafe.

Routes a request to a refusal, a polite answer, a default target or, unchanged, to the policy,
before an answer, on its text. Source: guarded query routing (arXiv 2505.14524); the domain
classifier and the rules are those of `wye.query.guarded_query_routing`, fitted and saved there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wye.gateway.config import ConfigError
from wye.gateway.errors import ApiError
from wye.gateway.openai_api import ChatRequest
from wye.gateway.records import DecisionRecord
from wye.gateway.surfaces import EMBEDDINGS, surface_of
from wye.gateway.watch.settings import GuardTable
from wye.gateway.watch.vectors import SharedEmbedder
from wye.query.base import RouterError
from wye.query.guarded_query_routing import GuardedRouter
from wye.query.guards import AnyGuard, Guard, ThresholdGuard, VectorClassifier

REFUSED = "refused_by_guard"
OUT_OF_DOMAIN, UNSAFE, IN_DOMAIN = "out_of_domain", "unsafe", "in_domain"
_IN_WORDS = {
    OUT_OF_DOMAIN: "it is outside of what this service is for",
    UNSAFE: "it is of a kind that this service does not answer",
}


@dataclass(frozen=True)
class Verdict:
    """What the guard makes of a request.

    Attributes:
        kind: "in_domain", "out_of_domain" or "unsafe".
        action: "pass", "refuse", "answer", "note" or "target".
        target: where it is sent, for the action "target".
        domain: what the text looks like most.
        rules: those that reject it.
        scores: of each rule with a threshold, its confidence and the least that passes.
        answer: what is said instead, for the action "answer".
    """

    kind: str
    action: str
    target: str | None
    domain: str
    rules: tuple[str, ...]
    scores: Mapping[str, Mapping[str, float]]
    answer: str | None = None

    @property
    def decides(self) -> bool:
        """Whether no policy is asked."""
        return self.action in ("refuse", "answer", "target")

    @property
    def reasons(self) -> tuple[str, ...]:
        """A sentence; nothing for a request that passes."""
        if self.kind == IN_DOMAIN:
            return ()
        told = ", ".join(
            f"{rule} {self.scores[rule]['confidence']:.3f} below {self.scores[rule]['least']:.3f}"
            if rule in self.scores
            else rule
            for rule in self.rules
        )
        why = told if self.kind == OUT_OF_DOMAIN else f"it looks like {self.domain!r}"
        done = {"target": f"sent to {self.target}", "note": "noted only", "refuse": "refused"}
        done["answer"] = "answered by the gateway itself"
        return (f"the guard finds it {self.kind.replace('_', ' ')} ({why}): {done[self.action]}",)

    def noted(self, record: DecisionRecord) -> DecisionRecord:
        """The decision with what the guard found."""
        found = {
            "verdict": self.kind,
            "action": self.action,
            "domain": self.domain,
            "rules": list(self.rules),
            "scores": {rule: dict(pair) for rule, pair in self.scores.items()},
        }
        return replace(
            record,
            features={**record.features, "guard": found},
            reasons=(*(r for r in self.reasons if r not in record.reasons), *record.reasons),
        )

    def refusal(self) -> ApiError:
        """What the client is told."""
        return ApiError(
            403,
            f"the request was refused: {_IN_WORDS[self.kind]}",
            type="permission_error",
            code=REFUSED,
            headers={"x-should-retry": "false"},
        )


class RequestGuard:
    """Judges requests by a fitted guard.

    Args:
        settings: see `GuardTable`.
        targets: names of all targets.
        shared: the router's embedder; used by a guard that reads the same vectors.

    Raises:
        ConfigError: the file is no guard, or one that asks the network; or an action or domain
            names what does not exist.
    """

    def __init__(
        self, settings: GuardTable, targets: Sequence[str], shared: SharedEmbedder | None
    ) -> None:
        try:
            self._guarded = GuardedRouter.load(settings.path)
        except RouterError as error:
            raise ConfigError(
                f"[guard] path: {error}; make one with `wye guard fit --out {settings.path}`"
            ) from error
        self._settings = settings
        self.rejection_rate = self._guarded.rejection_rate_
        self._unsafe = frozenset(settings.unsafe_domains)
        for name in ("out_of_domain", "unsafe"):
            wanted = getattr(settings, name).partition(":")[2]
            if wanted and wanted not in targets:
                raise ConfigError(
                    f"[guard] {name} sends to {wanted!r}, which is no target; targets are "
                    f"{', '.join(targets)}"
                )
        known = [str(domain) for domain in self._guarded.domains_]
        # A guard may have no domain of unsafe requests; one that is named must be there.
        if "unsafe_domains" in settings.model_fields_set and (
            unknown := sorted(self._unsafe.difference(known))
        ):
            raise ConfigError(
                f"[guard] unsafe_domains names {', '.join(map(repr, unknown))}, which the guard "
                f"{settings.path} does not know; its domains are {', '.join(known)}"
            )
        classifier = self._guarded.router
        embedder = str(getattr(getattr(classifier, "embedder_", None), "name", ""))
        if embedder.startswith("endpoint:"):
            raise ConfigError(
                f"[guard] path: the guard {settings.path} reads by {embedder!r}; it stands before "
                "every request, so it needs an embedder of this machine: fit it again with "
                "--embedder static or minilm"
            )
        if (
            shared is not None
            and isinstance(classifier, VectorClassifier)
            and classifier.embedder_.name == shared.name
        ):
            classifier.embedder_ = shared
        self._thresholds = tuple(_thresholds(self._guarded.guard))

    def judge(self, chat: ChatRequest) -> Verdict | None:
        """What becomes of a request; None for one that nobody asks anything with."""
        if surface_of(chat.body) is EMBEDDINGS:
            return None
        reading = self._guarded.router.read([chat.text])
        found = self._guarded.guard.by_rule(reading)
        rules = tuple(rule for rule, rejects in found.items() if rejects[0])
        scores = {
            guard.kind: {"confidence": float(guard.confidence(reading)[0]), "least": guard.tau_}
            for guard in self._thresholds
        }
        domain = self._guarded.domains_[int(np.argmax(reading.logits[0]))]
        foreign, unsafe = bool(rules), domain in self._unsafe
        if foreign and unsafe and self._settings.out_of_domain == "note":
            # A note alone must not let pass what looks unsafe.
            foreign = False
        kind = OUT_OF_DOMAIN if foreign else UNSAFE if unsafe else IN_DOMAIN
        if kind == IN_DOMAIN:
            return Verdict(kind, "pass", None, domain, rules, scores)
        action, _, target = str(getattr(self._settings, kind)).partition(":")
        answer = self._settings.answer if action == "answer" else None
        return Verdict(kind, action, target or None, domain, rules, scores, answer)


def _thresholds(guard: Guard) -> list[ThresholdGuard]:
    guards: Sequence[Any] = guard.guards if isinstance(guard, AnyGuard) else (guard,)
    return [one for one in guards if isinstance(one, ThresholdGuard)]
