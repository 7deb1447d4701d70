"""Mixture of Thoughts: models that do not speak lend their hidden states to the one that does.

Routes a query to K of M frozen language models, before the answer, on an embedding z of the prompt;
one of them, the primary m*, writes, and at fixed depths it attends to the hidden states of the
others, token by token, in a shared width. arXiv 2509.21164. Each model is cut into Q stacks; behind
stacks 1 to Q - 1 an interaction layer q of its own (`interaction`) adds to the primary

    u_m = P_m,q LN(h_m),   c = attention(u_m*, {a_m u_m, m in I}),   h_m* <- h_m* + a_m* R_m*,q(c)

and leaves the peers as they are. Peers therefore never depend on the primary: each is run once and
its states are handed over, which is lock step without running layers by hand, for any architecture
and with each model's own cache. A place of the primary sees what peers have read of the same text
and nothing later: by index under one tokenizer, else by character offset (`offsets`). Roles come
from `thought_router`; rows are run in groups of one primary and one active set.

What it costs: K whole models on every token. A later submission of the authors reports gains over
routing of about 0.2 points in and 1.4 out of distribution, and was rejected for small gains at that
cost.

Ours where the paper could not be read: a multiplies the peers' u (keys and values alike) and the
primary's update; R starts at 0; no interaction behind the last stack; 128 shared, 4 heads.

Shape letters: B queries, L length, V vocabulary, M models, D width of z, Q stacks, U shared width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wye.lockstep.base import LockstepError, Member, common_vocabulary, freeze
from wye.lockstep.interaction import Interaction, stack_ends
from wye.lockstep.offsets import Tokens
from wye.lockstep.thought_pass import ThoughtPass
from wye.lockstep.thought_router import Roles, ThoughtRouter


@dataclass(frozen=True)
class ThoughtGroup:
    """Queries of one primary and one active set.

    Attributes:
        rows: `[G]` which queries.
        primary: who speaks.
        active: who takes part, the primary included, in order.
        logits: `[G, L, V]` of the primary.
        attention: `[G, Q - 1, M]` share of attention that each model got, mean over places.
        tokens: that the active models read together: the cost.
    """

    rows: Tensor
    primary: int
    active: tuple[int, ...]
    logits: Tensor
    attention: Tensor
    tokens: int


@dataclass(frozen=True)
class Thoughts:
    """What a mixture says of a batch.

    Attributes:
        groups: of queries; every query is in one.
        roles: of the models.
    """

    groups: tuple[ThoughtGroup, ...]
    roles: Roles

    def logits(self) -> Tensor:
        """`[B, L, V]` in the order of the queries.

        Raises:
            LockstepError: no queries, or primaries with lengths or vocabularies of their own.
        """
        shapes = {tuple(g.logits.shape[1:]) for g in self.groups}
        if len(shapes) != 1:
            raise LockstepError(
                f"the groups have logits of shapes {sorted(shapes)}: models with tokenizers of "
                "their own have no common logits; read `groups`"
            )
        order = torch.cat([g.rows for g in self.groups]).argsort()
        return torch.cat([g.logits for g in self.groups])[order]

    def of_primary(self, member: int) -> tuple[Tensor, Tensor]:
        """Rows `[G]` in which `member` speaks, in order, and its logits `[G, L, V]`.

        Raises:
            LockstepError: it speaks nowhere.
        """
        found = [g for g in self.groups if g.primary == member]
        if not found:
            raise LockstepError(f"model {member} is the primary of no query of this batch")
        rows = torch.cat([g.rows for g in found])
        order = rows.argsort()
        return rows[order], torch.cat([g.logits for g in found])[order]


class MixtureOfThoughts(nn.Module):
    """Frozen models, a router over them and the interaction layers between their stacks.

    The models are frozen here and are no part of `parameters()` or `state_dict()`.

    Args:
        members: M models that show their layers.
        width: D of the embeddings of prompts.
        k: models that take part in a query.
        n_stacks: Q; with 1 nothing interacts.
        shared: U.
        n_heads: of the interaction.
        last: also interact behind the last stack.
        seed: of the weights.

    Raises:
        LockstepError: no models, fewer layers than stacks, or sizes that do not fit together.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        width: int,
        k: int = 3,
        n_stacks: int = 4,
        shared: int = 128,
        n_heads: int = 4,
        last: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not members:
            raise LockstepError("no members, expected at least one language model")
        self.members = tuple(members)
        ends = [stack_ends(len(m.layers), n_stacks, last=last) for m in members]
        self.ends = tuple(tuple(e) for e in ends)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.router = ThoughtRouter(width, len(members), k=k)
            self.interactions = nn.ModuleList(
                Interaction([m.width for m in members], shared=shared, n_heads=n_heads)
                for _ in ends[0]
            )
        freeze(self.members)

    def forward(
        self,
        texts: Tensor | Sequence[Tokens],
        z_BD: Tensor,
        *,
        roles: Roles | None = None,
        generator: torch.Generator | None = None,
        peer_rows: Tensor | None = None,
    ) -> Thoughts:
        """The laws of the token behind each token of the primaries.

        Args:
            texts: ids `[B, L]` for models of one tokenizer, or the same texts as each model reads
                them; padded at their ends.
            z_BD: embeddings of the prompts.
            roles: chosen before; else the router chooses, with noise in training mode.
            generator: of the noise.
            peer_rows: `[B]` the query that peers read in place of each; shuffled, it shows what the
                content of their thoughts is worth.

        Raises:
            LockstepError: texts or embeddings of other shapes, or one tensor of ids for models that
                do not share a tokenizer.
        """
        tokens = self.shared_tokens(texts) if isinstance(texts, Tensor) else list(texts)
        if len(tokens) != len(self.members) or any(len(t.ids) != len(z_BD) for t in tokens):
            raise LockstepError(
                f"texts of {[tuple(t.ids.shape) for t in tokens]} and {len(z_BD)} embeddings, "
                f"expected one [B, L] for each of {len(self.members)} models and one row each"
            )
        if roles is None:
            roles = self.router(z_BD, noise=self.training, generator=generator)
        groups = [
            self._group(tokens, roles, peer_rows, rows, primary, active)
            for rows, primary, active in roles.groups()
        ]
        return Thoughts(tuple(groups), roles)

    def shared_tokens(self, ids_BL: Tensor) -> list[Tokens]:
        """The same ids for every model.

        Raises:
            LockstepError: models that do not share a tokenizer.
        """
        common_vocabulary(self.members)
        return [Tokens.counted(ids_BL)] * len(self.members)

    def choose(self, z_BD: Tensor, *, dropped: Collection[int] = ()) -> Roles:
        """Roles without noise; `dropped` models are no peers."""
        was_training = self.router.training
        self.router.eval()
        try:
            with torch.no_grad():
                roles: Roles = self.router(z_BD, dropped=dropped)
        finally:
            self.router.train(was_training)
        return roles

    def begin(self, primary: int, active: Collection[int], weight: Tensor) -> ThoughtPass:
        """An empty text, read by some of the models; `weight` is a `[B, M]`."""
        return ThoughtPass(
            self.members, self.ends, list(self.interactions), primary, tuple(sorted(active)), weight
        )

    def _group(
        self,
        tokens: Sequence[Tokens],
        roles: Roles,
        peer_rows: Tensor | None,
        rows: Tensor,
        primary: int,
        active: tuple[int, ...],
    ) -> ThoughtGroup:
        peers = rows if peer_rows is None else peer_rows[rows]
        new: Mapping[int, Tokens] = {
            m: tokens[m].rows(rows if m == primary else peers) for m in active
        }
        running = self.begin(primary, active, roles.weight[rows])
        logits = running.advance(new, remember=False)
        return ThoughtGroup(
            rows=rows,
            primary=primary,
            active=active,
            logits=logits,
            attention=running.attention,
            tokens=sum(t.ids.numel() for t in new.values()),
        )
