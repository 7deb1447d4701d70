"""From a request to its decision: every step that has a say in it, in order, in one place.

    estimate -> conversation (what leaving a cache costs) -> guard -> policy, or the named target

A decision that is made and one that is only rehearsed (`/api/choose`) go the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from wye.gateway.eligibility import unfit, unspoken, with_translations
from wye.gateway.lane import Lane
from wye.gateway.money.admission import Decide, Grant
from wye.gateway.openai_api import ChatRequest
from wye.gateway.router_service import Routed, RouterService

if TYPE_CHECKING:
    from wye.gateway.conversation.switching import Conversations
    from wye.gateway.watch.guarding import RequestGuard, Verdict


class Decider:
    """Makes decisions, and rehearses them.

    Args:
        service: estimates and chooses.
        lanes: by target; those that are closed are left out.
        conversations, guard: have a say where they are given.
    """

    def __init__(
        self,
        service: RouterService,
        lanes: Mapping[str, Lane],
        conversations: Conversations | None,
        guard: RequestGuard | None,
    ) -> None:
        self._service = service
        self._lanes = lanes
        self._conversations = conversations
        self._guard = guard

    async def decide(
        self,
        chat: ChatRequest,
        policy: str | None,
        target: str | None,
        grant: Grant,
        verdict: Verdict | None,
    ) -> Routed:
        """The decision within a grant. Exactly one of `policy` and `target` is given.

        Raises:
            ApiError: the money for it cannot be set aside.
        """
        decide = await self._prepare(self._service, chat, policy, target, grant, verdict)
        return self._noted(await grant.choose(decide), chat, grant, verdict)

    async def rehearse(
        self, chat: ChatRequest, policy: str | None, target: str | None, grant: Grant
    ) -> Routed:
        """The decision that `decide` would make now; nothing is set aside, counted or stored."""
        verdict = self.verdict(chat)
        service = self._service.rehearsal()
        decide = await self._prepare(service, chat, policy, target, grant, verdict)
        return self._noted(decide(await grant.left_out()), chat, grant, verdict)

    def verdict(self, chat: ChatRequest) -> Verdict | None:
        """What the guard says of a request; None without a guard."""
        return self._guard.judge(chat) if self._guard is not None else None

    async def _prepare(
        self,
        service: RouterService,
        chat: ChatRequest,
        policy: str | None,
        target: str | None,
        grant: Grant,
        verdict: Verdict | None,
    ) -> Decide:
        """What decides, given the targets to leave out and why."""
        key_id = grant.key.id if grant.key is not None else None
        expected = await service.expect(chat, policy=policy, key=key_id, session=grant.session)
        if self._conversations is not None:
            expected = self._conversations.expect(chat, expected, key_id, grant.session)

        def decide(left_out: Mapping[str, str]) -> Routed:
            if verdict is not None and verdict.decides:
                shut = {**left_out, **self._closed(), **unfit(chat, service.targets)}
                sent = verdict.target
                why = shut.get(sent) if sent is not None else None
                return service.guarded(chat, expected, sent, verdict.reasons, why)
            if target is not None:
                mute = unspoken(chat, service.by_name[target])
                return service.direct(chat, expected, target, left_out.get(target) or mute)
            excluded = {**left_out, **self._closed(), **unfit(chat, service.targets)}
            return service.decide(chat, expected, str(policy), excluded)

        return decide

    def _closed(self) -> dict[str, str]:
        """Targets that take no request at this moment, each with the reason."""
        return {
            name: reason
            for name, lane in self._lanes.items()
            if (reason := lane.closed) is not None
        }

    def _noted(
        self, routed: Routed, chat: ChatRequest, grant: Grant, verdict: Verdict | None
    ) -> Routed:
        """A decision with what is known beside it: who asks, translations, the guard's verdict."""
        record = routed.record
        if grant.key is not None or grant.session is not None:
            key_id = grant.key.id if grant.key is not None else None
            record = replace(record, key_id=key_id, session=grant.session)
        record = with_translations(record, chat, self._service.targets)
        if verdict is not None:
            record = verdict.noted(record)
        return routed if record is routed.record else replace(routed, record=record)
