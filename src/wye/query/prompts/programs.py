"""Prompt programs: a few chat calls with slots, kept as data, that are one target among others.

A `PromptStrategy` is a list of stages. A stage is a chat template whose slots `{{name}}` are the
task, a default of the strategy, or what an earlier stage wrote. The text of the last stage is the
answer. Every call is accounted by its stage, so that a strategy has a cost as a model has one.

Strategies are TOML files; those that come with wye are read by `strategy(name)`:

    name = "step-by-step"
    description = "what a router may read about it"

    [defaults]                  # slots besides the task, with the text that fills them
    language = "English"

    [[stage]]
    name = "answer"             # the slot that later stages read it by
    max_tokens = 512
    read = "text"               # or "code": the first fenced block, where there is one
    [[stage.message]]
    role = "user"
    content = "{{task}} Answer in {{language}}."

Sources of the strategies: few-shot, Brown et al., arXiv 2005.14165; step by step, Kojima et al.,
arXiv 2205.11916; intention chain of thought, Li et al., arXiv 2512.14048. The words are ours.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

from wye.query.base import RouterError
from wye.query.chat_models.asking import ROLES, check_call
from wye.query.chat_models.base import ChatModel, ChatModelError, Generation, Message

TASK = "task"
_SLOT = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_STAGE_KEYS = {"name", "message", "max_tokens", "temperature", "top_p", "read"}
_KEYS = {"name", "description", "defaults", "stage"}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One call.

    Attributes:
        name: the slot by which later stages read what it wrote.
        messages: role and template of each message.
        max_tokens, temperature, top_p: of the call.
        read: `text` takes the whole answer, `code` its first fenced block where there is one.
    """

    name: str
    messages: tuple[tuple[str, str], ...]
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    read: Literal["text", "code"] = "text"

    @property
    def slots(self) -> set[str]:
        """Names of the slots of all templates."""
        return {slot for _, template in self.messages for slot in _SLOT.findall(template)}


@dataclass(frozen=True)
class StageRun:
    """What one stage asked and got.

    Attributes:
        stage: its name.
        messages: as they were sent.
        text: what later stages read.
        generation: the call.
    """

    stage: str
    messages: tuple[Message, ...]
    text: str
    generation: Generation


@dataclass(frozen=True)
class StrategyRun:
    """The answer of a strategy and what each stage took."""

    strategy: str
    stages: tuple[StageRun, ...]

    @property
    def text(self) -> str:
        """Of the last stage."""
        return self.stages[-1].text

    @property
    def input_tokens(self) -> int:
        """Of all stages."""
        return sum(s.generation.input_tokens for s in self.stages)

    @property
    def output_tokens(self) -> int:
        """Of all stages."""
        return sum(s.generation.output_tokens for s in self.stages)

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(s.generation.seconds for s in self.stages)

    @property
    def cost_usd(self) -> float:
        """Of all stages; NaN where that of one is."""
        return sum(s.generation.cost_usd for s in self.stages)


@dataclass(frozen=True, kw_only=True)
class PromptStrategy:
    """A program of chat calls.

    Attributes:
        name: of the target.
        description: what it is good at and what it takes, in words.
        stages: in order.
        defaults: slots besides the task, and what fills them unless a caller gives another text.

    Raises:
        RouterError: no stage, names that clash, or a slot that nothing fills.
    """

    name: str
    description: str
    stages: tuple[Stage, ...]
    defaults: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {TASK, *self.defaults}
        if not self.stages:
            raise RouterError(f"the strategy {self.name!r} has no stage; a strategy makes a call")
        for stage in self.stages:
            if missing := sorted(stage.slots - known):
                raise RouterError(
                    f"stage {stage.name!r} of {self.name!r} has the slots {missing}, which nothing "
                    f"fills; there are {sorted(known)}"
                )
            if stage.name in known:
                raise RouterError(
                    f"{self.name!r} has two texts named {stage.name!r}; rename the stage"
                )
            if not stage.messages or any(role not in ROLES for role, _ in stage.messages):
                raise RouterError(
                    f"stage {stage.name!r} of {self.name!r} has messages of the roles "
                    f"{[role for role, _ in stage.messages]}; expected some of {list(ROLES)}"
                )
            known.add(stage.name)

    @classmethod
    def from_toml(cls, text: str) -> PromptStrategy:
        """A strategy as the opening of this module describes it.

        Raises:
            RouterError: it is no TOML, or a key is missing, unknown or of a wrong kind.
        """
        try:
            found = tomllib.loads(text)
            _refuse_unknown(found, _KEYS, "a strategy")
            stages = tuple(_stage(entry) for entry in found["stage"])
            return cls(
                name=found["name"],
                description=found["description"],
                stages=stages,
                defaults=dict(found.get("defaults", {})),
            )
        except RouterError:
            raise
        except tomllib.TOMLDecodeError as error:
            raise RouterError(f"the strategy is no TOML: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise RouterError(
                f"the strategy lacks {error} or has it in another form; expected name, "
                "description and [[stage]] with name and [[stage.message]] of role and content"
            ) from error

    def filled(self, name: str, **slots: str) -> PromptStrategy:
        """The same program under another name with other texts in its slots: a persona, say.

        Raises:
            RouterError: the strategy has no such slot.
        """
        if unknown := sorted(set(slots) - set(self.defaults)):
            raise RouterError(
                f"{self.name!r} has no slots {unknown}; it has {sorted(self.defaults)}"
            )
        return replace(self, name=name, defaults={**self.defaults, **slots})

    def run(
        self,
        model: ChatModel,
        task: str,
        *,
        context: Sequence[Message] = (),
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> StrategyRun:
        """Answer `task` with `model`.

        Args:
            model: makes every call.
            task: fills the slot `task`; braces in it are text.
            context: messages before the task; system texts join those of each stage, the others
                stand before its last message.
            max_tokens: of the last stage, instead of its own.
            seed: of sampling; stage number i uses seed + i.

        Raises:
            ChatModelError: a call failed.
        """
        texts = {TASK: task, **self.defaults}
        runs = []
        for number, stage in enumerate(self.stages):
            asked = _with_context(_filled(stage, texts), context)
            last = number + 1 == len(self.stages)
            made = model.generate(
                asked,
                max_tokens=max_tokens if last and max_tokens is not None else stage.max_tokens,
                temperature=stage.temperature,
                top_p=stage.top_p,
                seed=None if seed is None else seed + number,
            )
            text = first_code(made.text) if stage.read == "code" else made.text.strip()
            texts[stage.name] = text
            runs.append(StageRun(stage.name, tuple(asked), text, made))
        return StrategyRun(self.name, tuple(runs))


class StrategyChatModel(ChatModel):
    """A strategy on a model as a target like any other: its tokens and cost are those of all calls.

    Temperature, top_p and stop of a call are the strategy's own; `stop` cuts the answer.

    Args:
        strategy: the program.
        model: makes the calls.
    """

    def __init__(self, strategy: PromptStrategy, model: ChatModel) -> None:
        self.strategy = strategy
        self.model = model
        self.name = f"{strategy.name}({model.name})"

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        """Run the strategy on the last message, the others before it; see `ChatModel.generate`.

        Raises:
            ChatModelError: the last message is not the user's, or a call failed.
        """
        from wye.query.chat_models.asking import cut_at_stop

        check_call(self.name, messages, max_tokens=max_tokens, temperature=temperature, top_p=top_p)
        if messages[-1]["role"] != "user":
            raise ChatModelError(
                f"{self.name} got a last message of {messages[-1]['role']!r}, expected the user's"
            )
        run = self.strategy.run(
            self.model,
            messages[-1]["content"],
            context=messages[:-1],
            max_tokens=max_tokens,
            seed=seed,
        )
        text, stopped = cut_at_stop(run.text, stop)
        last = run.stages[-1].generation
        return Generation(
            text=text,
            input_tokens=run.input_tokens,
            output_tokens=run.output_tokens,
            finish_reason="stop" if stopped else last.finish_reason,
            model=self.name,
            log_probabilities=last.log_probabilities,
            runner_up=last.runner_up,
            seconds=run.seconds,
            cost_usd=run.cost_usd,
        )


def strategy_names() -> list[str]:
    """Names of the strategies that come with wye, sorted."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in files("wye.query.prompts").joinpath("strategies").iterdir()
        if entry.name.endswith(".toml")
    )


@lru_cache(maxsize=64)
def strategy(name: str) -> PromptStrategy:
    """A strategy that comes with wye.

    Raises:
        RouterError: none has that name.

    Example:
        >>> [stage.name for stage in strategy("intention-code").stages]
        ['intention', 'code']
    """
    if name not in strategy_names():
        raise RouterError(f"no prompt strategy is named {name!r}; there are {strategy_names()}")
    file = files("wye.query.prompts").joinpath("strategies", f"{name}.toml")
    return PromptStrategy.from_toml(file.read_text(encoding="utf-8"))


def first_code(text: str) -> str:
    """The first fenced block of an answer, closed or cut; the whole text where there is none.

    Example:
        >>> first_code("Here: ```python\\nx = 1\\n``` done")
        'x = 1'
    """
    found = _FENCED.search(text)
    return (found[1] if found else text).strip("\n")


def _stage(entry: Mapping[str, Any]) -> Stage:
    _refuse_unknown(entry, _STAGE_KEYS, "a stage")
    stage = Stage(
        name=entry["name"],
        messages=tuple((m["role"], m["content"].strip("\n")) for m in entry["message"]),
        max_tokens=entry.get("max_tokens", 512),
        temperature=float(entry.get("temperature", 0.0)),
        top_p=float(entry.get("top_p", 1.0)),
        read=entry.get("read", "text"),
    )
    if stage.read not in ("text", "code"):
        raise RouterError(f"stage {stage.name!r} reads {stage.read!r}, expected text or code")
    if stage.max_tokens < 1 or not 0 <= stage.temperature < math.inf or not 0 < stage.top_p <= 1:
        raise RouterError(
            f"stage {stage.name!r} has max_tokens={stage.max_tokens}, temperature="
            f"{stage.temperature}, top_p={stage.top_p}; expected >= 1, >= 0, and above 0 to 1"
        )
    return stage


def _refuse_unknown(entry: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(set(entry) - known):
        raise RouterError(f"{what} has the keys {unknown}; it may have {sorted(known)}")


def _filled(stage: Stage, texts: Mapping[str, str]) -> list[Message]:
    # One pass: what a slot brings in is never searched for slots.
    return [
        {"role": role, "content": _SLOT.sub(lambda slot: texts[slot[1]], template)}
        for role, template in stage.messages
    ]


def _with_context(asked: list[Message], context: Sequence[Message]) -> list[Message]:
    system = [m["content"] for m in (*asked, *context) if m["role"] == "system"]
    talk = [m for m in asked if m["role"] != "system"]
    earlier = [dict(m) for m in context if m["role"] != "system"]
    first: list[Message] = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    return [*first, *talk[:-1], *earlier, *talk[-1:]]
