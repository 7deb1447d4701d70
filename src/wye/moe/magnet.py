"""MAGNET: each user-item pair goes to a few fusion experts with fixed modality roles.

User-item interaction -> experts, when the pair is scored, from graph-encoded features of both (Dai
et al. 2026, arXiv 2602.20723). ABSTRACT ONLY, with third-party notes: formulas and constants are
this project's design.

Modalities m: behaviour b (a learned id), and content (v, t, ...), each encoded by LightGCN (He et
al. 2020, arXiv 2002.02126) on two views of the graph and fused per node:
    view A   users and items that interacted
    view B   the same with edges between items of similar content and from a user's items to those
    z = s z_A + (1 - s) z_B,  s = sigmoid(linear [z_A; z_B])
A user's content embedding is the mean over the items of the training history.
    q^m = z_u^m * z_i^m                                 features of the pair
    f_e(q) = MLP_e( sum_m w_em n(q^m) )                 n: root-mean-square normalisation
    P = softmax(W_2 GELU(W_1 [q; z_u^b; z_i^b])),       top-2 renormalised
    y_ui = w . sum_e g_e f_e(q) + z_u^b . z_i^b
Roles w_e: dominant (0.8 on one modality), complementary (0.45 on two), balanced (equal). They are
applied to a sum of normalised features: before a linear layer on the concatenation training would
undo them, and without the normalisation the longest modality would dominate every role.

Shape letters: S pairs, E experts, D width, M modalities, U users, I items, V nodes (U + I).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wye.core import Plan
from wye.moe.base import Context, MoEError, RoutedModule, Routing
from wye.moe.experts import Experts
from wye.moe.models.light_graph import content_edges, normalised_adjacency, propagate
from wye.moe.parts.balance import Balance
from wye.moe.parts.gates import Gate
from wye.moe.parts.scores import PerceptronScores
from wye.moe.parts.selection import TopK
from wye.moe.router import ComposedRouter


@dataclass(frozen=True)
class Role:
    """What an expert reads.

    Attributes:
        name: "dominant", "complementary" or "balanced", with the modalities it favours.
        weights: `[M]`, sum 1.
    """

    name: str
    weights: tuple[float, ...]


def role_templates(modalities: Sequence[str], *, balanced: int = 3) -> tuple[Role, ...]:
    """Experts of all three roles: one dominant per modality, one complementary per pair, balanced.

    Args:
        modalities: M names, at least 2.
        balanced: experts of the balanced role, each with its own parameters.

    Raises:
        MoEError: fewer than two modalities.

    Example:
        >>> [role.name for role in role_templates(["b", "t"], balanced=1)]
        ['dominant b', 'dominant t', 'complementary b t', 'balanced 1']
    """
    n = len(modalities)
    if n < 2:
        raise MoEError(f"modalities={list(modalities)}, expected at least two to give roles to")

    def spread(favoured: Sequence[int], share: float) -> tuple[float, ...]:
        others = n - len(favoured)
        if others == 0:
            return (1.0 / n,) * n
        rest = (1.0 - share * len(favoured)) / others
        return tuple(share if m in favoured else rest for m in range(n))

    dominant = [Role(f"dominant {name}", spread([m], 0.8)) for m, name in enumerate(modalities)]
    pairs = [
        Role(f"complementary {modalities[a]} {modalities[b]}", spread([a, b], 0.45))
        for a, b in combinations(range(n), 2)
    ]
    even = [Role(f"balanced {j + 1}", (1.0 / n,) * n) for j in range(balanced)]
    return (*dominant, *pairs, *even)


class RoleMixture(RoutedModule):
    """Fusion experts of fixed roles over the features of a pair.

    Args:
        width: D of each modality.
        roles: of the E experts, all over the same M modalities.
        k: experts per pair.
        balance: controllers of the router.
    """

    roles_EM: Tensor

    def __init__(
        self, width: int, roles: Sequence[Role], *, k: int = 2, balance: Sequence[Balance] = ()
    ) -> None:
        n_modalities = len(roles[0].weights)
        inputs = (n_modalities + 2) * width
        router = ComposedRouter(
            inputs,
            PerceptronScores(inputs, len(roles), hidden=width),
            gate=Gate(normalise=True),
            selection=TopK(k),
            balance=balance,
        )
        super().__init__(router)
        self.roles = tuple(roles)
        self.width, self.n_modalities = width, n_modalities
        self.register_buffer("roles_EM", torch.tensor([r.weights for r in roles]))
        self.experts = Experts(len(roles), width, width, gated=False, activation="gelu", bias=True)

    def execute(self, x_SD: Tensor, routing: Routing, context: Context) -> Tensor:
        plan, n = routing.plan, len(routing.plan)
        q_SMD = x_SD[:, : self.n_modalities * self.width].reshape(-1, self.n_modalities, self.width)
        q_SMD = F.rms_norm(q_SMD, (self.width,))
        rows_ND = torch.einsum("nm,nmd->nd", self.roles_EM[plan.target], q_SMD[plan.source])
        alone = Plan(
            torch.arange(n, device=x_SD.device), plan.target, plan.weight, n, plan.n_targets
        )
        out = self.experts(rows_ND, alone)
        fused = torch.zeros(plan.n_sources, self.width, device=x_SD.device, dtype=out.dtype)
        return fused.index_add(0, plan.source, out)


class Magnet(nn.Module):
    """Scores of user-item pairs by routed fusion experts.

    Args:
        n_users: U.
        n_items: I.
        users, items: `[N]` training interactions, pair by pair.
        content: features of the items by modality, each `[I, any]`.
        width: D.
        depth: layers of propagation.
        roles: of the experts; all nine templates when not given.
        k: experts per pair.
        balance: controllers of the router.
        neighbours: similar items per item in view B.
        content_weight: of the edges from a user's items to items like them; those between items
            have their cosine, times this over 0.1. 0 leaves view B without content.
        fuse: "experts"; "concatenate", one perceptron over all features, or "none", behaviour
            alone (LightGCN), as baselines.

    Raises:
        MoEError: sizes that do not match.
    """

    history_UI: Tensor

    def __init__(
        self,
        n_users: int,
        n_items: int,
        users: Tensor,
        items: Tensor,
        content: Mapping[str, Tensor],
        *,
        width: int = 64,
        depth: int = 2,
        roles: Sequence[Role] | None = None,
        k: int = 2,
        balance: Sequence[Balance] = (),
        neighbours: int = 10,
        content_weight: float = 0.1,
        fuse: Literal["experts", "concatenate", "none"] = "experts",
    ) -> None:
        super().__init__()
        for name, features in content.items():
            if features.shape[0] != n_items:
                raise MoEError(
                    f"content {name!r} has {features.shape[0]} rows, expected one for each of the "
                    f"{n_items} items"
                )
        self.n_users, self.n_items, self.width, self.depth = n_users, n_items, width, depth
        self.fuse = fuse
        self.modalities = ("behaviour", *content) if fuse != "none" else ("behaviour",)
        used = content if fuse != "none" else {}
        plain = torch.stack([users, items + n_users])
        similar = content_edges(
            used.values(), users, items, n_users, neighbours=neighbours, weight=content_weight
        )
        n_nodes = n_users + n_items
        ones = torch.ones(plain.shape[1])
        self.views = nn.ModuleList(
            _View(normalised_adjacency(edges, weights, n_nodes), used, n_nodes, width)
            for edges, weights in (
                (plain, ones),
                (torch.cat([plain, similar[0]], dim=1), torch.cat([ones, similar[1]])),
            )
        )
        self.register_buffer("history_UI", _history(users, items, n_users, n_items))
        self.fusion = nn.ModuleDict({m: nn.Linear(2 * width, 1) for m in self.modalities})
        if fuse == "experts":
            self.mixture: nn.Module = RoleMixture(
                width, roles or role_templates(self.modalities), k=k, balance=balance
            )
        elif fuse == "concatenate":
            inputs = (len(self.modalities) + 2) * width
            self.mixture = nn.Sequential(
                nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width)
            )
        self.head = nn.Linear(width, 1, bias=False) if fuse != "none" else None

    @property
    def experts(self) -> RoleMixture | None:
        """The routed fusion; None in a baseline."""
        found = getattr(self, "mixture", None)
        return found if isinstance(found, RoleMixture) else None

    def encode(self) -> dict[str, Tensor]:
        """Embeddings `[V, D]` of all users, then all items, by modality."""
        fused: dict[str, Tensor] = {}
        first, second = (
            view.encode(self.modalities, self.history_UI, self.depth)  # type: ignore[operator]
            for view in self.views
        )
        for name in self.modalities:
            share = torch.sigmoid(self.fusion[name](torch.cat([first[name], second[name]], dim=1)))
            fused[name] = share * first[name] + (1 - share) * second[name]
        return fused

    def score(self, z: Mapping[str, Tensor], users: Tensor, items: Tensor) -> Tensor:
        """y `[S]` of S pairs, from what `encode` returned."""
        nodes = items + self.n_users
        behaviour_u, behaviour_i = z["behaviour"][users], z["behaviour"][nodes]
        base = (behaviour_u * behaviour_i).sum(dim=1)
        if self.head is None:
            return base
        features = [z[m][users] * z[m][nodes] for m in self.modalities]
        x_SD = torch.cat([*features, behaviour_u, behaviour_i], dim=1)
        if isinstance(self.mixture, RoleMixture):
            fused, _ = self.mixture.run(x_SD, Context(batch=1, length=x_SD.shape[0]))
        else:
            fused = self.mixture(x_SD)
        score: Tensor = self.head(fused)[:, 0] + base
        return score

    @torch.no_grad()
    def rank(self, users: Tensor, *, shortlist: int = 200, seen: Tensor | None = None) -> Tensor:
        """Items `[B, shortlist]` for each user, best first.

        The score does not factor into a user and an item part, so only the `shortlist` items of
        largest z_u^b . z_i^b are scored in full; they cap what the ranking can reach.

        Args:
            users: `[B]`.
            shortlist: items scored in full.
            seen: `[B, I]` booleans, items left out.
        """
        z = self.encode()
        quick = z["behaviour"][users] @ z["behaviour"][self.n_users :].T
        if seen is not None:
            quick = quick.masked_fill(seen, -torch.inf)
        items = quick.topk(min(shortlist, self.n_items), dim=1).indices
        if self.head is None:
            return items
        pairs = users[:, None].expand_as(items)
        full = self.score(z, pairs.reshape(-1), items.reshape(-1)).reshape(items.shape)
        allowed = torch.isfinite(quick.gather(1, items))
        order = full.masked_fill(~allowed, -torch.inf).argsort(dim=1, descending=True, stable=True)
        return items.gather(1, order)


def pairwise_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking, mean of -log sigmoid(y_ui - y_uj) (arXiv 1205.2618, eq. 5)."""
    return -F.logsigmoid(positive - negative).mean()


class _View(nn.Module):
    adjacency: Tensor

    def __init__(
        self, adjacency: Tensor, content: Mapping[str, Tensor], n_nodes: int, width: int
    ) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.behaviour = nn.Parameter(torch.randn(n_nodes, width) * 0.1)
        self.content = nn.ModuleDict({m: nn.Linear(f.shape[1], width) for m, f in content.items()})
        for name, features in content.items():
            self.register_buffer(f"features_{name}", features.float())

    def encode(
        self, modalities: Sequence[str], history_UI: Tensor, depth: int
    ) -> dict[str, Tensor]:
        start: list[Tensor] = []
        for name in modalities:
            if name == "behaviour":
                start.append(self.behaviour)
                continue
            items = self.content[name](getattr(self, f"features_{name}"))
            cues = torch.sparse.mm(history_UI, items)
            # A user without history has no cue of its own: the mean over those who have one.
            some = torch.sparse.sum(history_UI, dim=1).to_dense() > 0
            cues = torch.where(some[:, None], cues, cues[some].mean(dim=0))
            start.append(torch.cat([cues, items]))
        # One sparse product for all modalities: they share the graph.
        encoded = propagate(self.adjacency, torch.cat(start, dim=1), depth)
        return dict(zip(modalities, encoded.chunk(len(modalities), dim=1), strict=True))


def _history(users: Tensor, items: Tensor, n_users: int, n_items: int) -> Tensor:
    count = torch.bincount(users, minlength=n_users).clamp(min=1)
    weights = 1.0 / count[users].float()
    pairs = torch.stack([users, items])
    matrix = torch.sparse_coo_tensor(pairs, weights, (n_users, n_items), check_invariants=False)
    return matrix.coalesce()
