"""RoutingGen: a task goes to the short prompt if it is easy, to intention and code if it is not.

Routes a task to a prompt strategy, before anything is generated, on the text of the task. Source:
Li et al., RoutingGen, arXiv 2512.14048 (AAAI 2026).

A judge reads the task (data structures, complexity, edge cases, steps, recursion) and labels it,

    (d*, r*) = argmax_{(d, r)} P(d, r | q, T_cls),

greedily and in at most 100 tokens. The paper has two classes, the authors' code three labels and an
implicit fourth, for a reply that begins with none:

    Easy                     -> direct:  examples and the task, one call
    Medium, Hard, unparsable -> complex: the intention, then the code, two calls

Both strategies come with wye (`direct-code`, `intention-code`, see `wye.query.prompts.programs`).
The same router takes two other scorers: a query router that learned from outcomes of the
strategies, with any policy (`utility` is argmax of P(pass) - lambda x tokens when the log's prices
are per token, `budget` holds a total), and a rule. Tokens of the scorer count, once for each task:
routing pays only if they and those of the route are fewer than always taking the complex one.

Ours: the words of the prompts, label log-probabilities as a way to judge, and the learned scorer.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from wye.query.base import RouterError
from wye.query.prompts.label_choice import By, LabelAsker
from wye.query.prompts.programs import PromptStrategy, StrategyRun, strategy

if TYPE_CHECKING:
    from wye.query.base import QueryRouter
    from wye.query.chat_models.base import ChatModel
    from wye.query.policy import Policy

DIRECT, COMPLEX = "direct-code", "intention-code"
LABELS = {"Easy": DIRECT, "Medium": COMPLEX, "Hard": COMPLEX}
UNKNOWN = "Unknown"
_SYSTEM = "You are an expert in judging how difficult programming tasks are."
_ASK = """\
How difficult is it to write this function? Weigh the data structures it needs, the complexity of
the algorithm, edge cases, the number of steps, and whether it needs recursion.
Reply in one line that begins with one of {labels}, in the form "<label>: because <reason>".

{task}"""


@dataclass(frozen=True)
class StrategyChoice:
    """Which strategy takes a task, and what choosing took.

    Attributes:
        strategy: name.
        label: what the scorer said, `Unknown` for a reply that begins with no label.
        reason: in words.
        scores: of each strategy or label, higher is better; empty where the scorer has none.
        input_tokens, output_tokens, cost_usd: of choosing.
    """

    strategy: str
    label: str
    reason: str
    scores: Mapping[str, float] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


class StrategyScorer(ABC):
    """Chooses a strategy for each task."""

    @property
    @abstractmethod
    def key(self) -> str:
        """All that the choice depends on besides the task, so that choices can be kept."""

    @abstractmethod
    def choose(self, tasks: Sequence[str]) -> list[StrategyChoice]:
        """One choice for each task, in order."""


class JudgeScorer(StrategyScorer):
    """A chat model that labels the difficulty.

    Args:
        model: the judge.
        labels: label -> strategy.
        otherwise: the strategy of a reply that begins with no label: the complex one.
        by: `text` or `log-probabilities`, see `wye.query.prompts.label_choice`.
        max_tokens: that the judge may write.

    Raises:
        RouterError: labels that are empty, or an unknown `by`.
    """

    def __init__(
        self,
        model: ChatModel,
        *,
        labels: Mapping[str, str] | None = None,
        otherwise: str = COMPLEX,
        by: By = "text",
        max_tokens: int = 100,
    ) -> None:
        self.labels = dict(LABELS if labels is None else labels)
        self.otherwise = otherwise
        self.asker = LabelAsker(model, list(self.labels), by=by, max_tokens=max_tokens)

    @property
    def key(self) -> str:
        """Model, labels, prompt and way of asking."""
        asker = self.asker
        return _digest(
            [
                asker.model.name,
                self.labels,
                self.otherwise,
                asker.by,
                asker.max_tokens,
                _SYSTEM,
                _ASK,
            ]
        )

    def choose(self, tasks: Sequence[str]) -> list[StrategyChoice]:
        """One call of the judge for each task.

        Raises:
            ChatModelError: the judge fails, or does not score labels.
        """
        return [self._one(task) for task in tasks]

    def _one(self, task: str) -> StrategyChoice:
        names = ", ".join(self.labels)
        found = self.asker.ask(
            [
                {"role": "system", "content": _SYSTEM},
                {"role": "user", "content": _ASK.format(labels=names, task=task)},
            ]
        )
        scores = found.log_probabilities
        return StrategyChoice(
            strategy=self.otherwise if found.label is None else self.labels[found.label],
            label=found.label or UNKNOWN,
            reason=found.reason,
            scores={} if scores is None else dict(zip(self.labels, scores.tolist(), strict=True)),
            input_tokens=found.input_tokens,
            output_tokens=found.output_tokens,
            cost_usd=found.cost_usd,
        )


class LearnedScorer(StrategyScorer):
    """A query router that learned from outcomes in which strategies stand as models.

    Args:
        router: fitted.
        policy: the rule, quality alone when not given.
        seed: for policies that randomise.
    """

    def __init__(
        self, router: QueryRouter, policy: Policy | None = None, *, seed: int | None = None
    ) -> None:
        self.router = router
        self.policy = policy
        self.seed = seed

    @property
    def key(self) -> str:
        """What the router learned, the policy and the seed."""
        arrays, values = self.router.get_state()
        learned = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
        for name in sorted(arrays):
            learned.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
        policy = "quality" if self.policy is None else self.policy.describe()
        return _digest([self.router.name, learned.hexdigest(), policy, self.seed])

    def choose(self, tasks: Sequence[str]) -> list[StrategyChoice]:
        """The policy's choice for each task.

        Raises:
            RouterError: the policy leaves a task without a strategy.
        """
        routing = self.router.route(tasks, self.policy, seed=self.seed)
        choices = []
        for decision in routing.decisions:
            if decision.target is None:
                raise RouterError(
                    f"the policy {decision.policy} leaves a task without a strategy: "
                    f"{' '.join(decision.reasons)}; use one that always chooses"
                )
            choices.append(
                StrategyChoice(
                    strategy=decision.target,
                    label=decision.target,
                    reason=" ".join(decision.reasons),
                    scores={c.target: c.quality for c in decision.candidates},
                    cost_usd=decision.router_cost_usd,
                )
            )
        return choices


class RuleScorer(StrategyScorer):
    """A program from the task to the name of a strategy.

    Args:
        name: of the rule; part of the key of kept choices, so change it with the rule.
        rule: task -> strategy.
    """

    def __init__(self, name: str, rule: Callable[[str], str]) -> None:
        self.name = name
        self.rule = rule

    @property
    def key(self) -> str:
        """The name."""
        return _digest(["rule", self.name])

    def choose(self, tasks: Sequence[str]) -> list[StrategyChoice]:
        """What the rule says of each task."""
        said = [self.rule(task) for task in tasks]
        return [StrategyChoice(s, s, f"by the rule {self.name}") for s in said]


@dataclass(frozen=True)
class RoutedAnswer:
    """A routed task: the choice, and the samples of the chosen strategy."""

    choice: StrategyChoice
    runs: tuple[StrategyRun, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """One for each sample."""
        return tuple(run.text for run in self.runs)

    @property
    def tokens(self) -> int:
        """In and out, of choosing and of all stages of all samples."""
        spent = sum(run.input_tokens + run.output_tokens for run in self.runs)
        return spent + self.choice.input_tokens + self.choice.output_tokens

    @property
    def cost_usd(self) -> float:
        """Of choosing and of all samples; NaN where a price is unknown."""
        return self.choice.cost_usd + sum(run.cost_usd for run in self.runs)


class PromptRouter:
    """Routes tasks to prompt strategies.

    Args:
        scorer: chooses.
        strategies: name -> program; the two of the paper when not given.
        kept: choices by a key of scorer and task; a mapping that outlives the process keeps them.

    Raises:
        RouterError: no strategies.

    Example:
        >>> rule = RuleScorer("short", lambda task: DIRECT if len(task) < 80 else COMPLEX)
        >>> PromptRouter(rule).choose(["def double(x):"])[0].strategy
        'direct-code'
    """

    def __init__(
        self,
        scorer: StrategyScorer,
        strategies: Mapping[str, PromptStrategy] | None = None,
        *,
        kept: MutableMapping[str, StrategyChoice] | None = None,
    ) -> None:
        if strategies is None:
            strategies = {name: strategy(name) for name in (DIRECT, COMPLEX)}
        if not strategies:
            raise RouterError("a prompt router needs at least one strategy")
        self.scorer = scorer
        self.strategies = dict(strategies)
        self.kept = {} if kept is None else kept

    def choose(self, tasks: Sequence[str]) -> list[StrategyChoice]:
        """The strategy of each task; a task that was chosen for before is not judged again.

        Raises:
            RouterError: the scorer names a strategy that is not here.
            ChatModelError: a judge fails.
        """
        scorer = self.scorer.key
        keys = [_digest([scorer, task]) for task in tasks]
        fresh = {k: t for k, t in zip(keys, tasks, strict=True) if k not in self.kept}
        for key, choice in zip(fresh, self.scorer.choose(list(fresh.values())), strict=True):
            if choice.strategy not in self.strategies:
                raise RouterError(
                    f"the scorer chose the strategy {choice.strategy!r}; there are "
                    f"{sorted(self.strategies)}"
                )
            self.kept[key] = choice
        return [self.kept[key] for key in keys]

    def answer(
        self, task: str, model: ChatModel, *, samples: int = 1, seed: int | None = None
    ) -> RoutedAnswer:
        """Route one task and run the chosen strategy.

        Args:
            task: the text of it.
            model: makes the calls of the strategy.
            samples: how often it runs; sample number i uses seed + 1000 i.
            seed: of sampling.

        Raises:
            RouterError: fewer than one sample, or an unknown strategy was chosen.
            ChatModelError: a call failed.
        """
        if samples < 1:
            raise RouterError(f"samples is {samples}, expected 1 or more")
        choice = self.choose([task])[0]
        program = self.strategies[choice.strategy]
        return RoutedAnswer(
            choice,
            tuple(
                program.run(model, task, seed=None if seed is None else seed + 1000 * i)
                for i in range(samples)
            ),
        )


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
