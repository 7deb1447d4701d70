"""Arch-Router: a small language model names the policy that a conversation falls under.

Routes a conversation to a policy that its user wrote down, before an answer, on the text; a table
of its own maps policies to models, so that models change without training. Source: Tran et al.,
Arch-Router: Aligning LLM Routing with Human Preferences, arXiv 2506.16655.

    F(q, C) = the policy c of C = {(name, description)} that the model names;  T(c) = the model

The authors train a 1.5B model by cross-entropy on the names. Here any chat model is asked, by
default by the log-probabilities of the names,

    c* = argmax_c log P(name_c | descriptions, conversation),

which always choose; its written answer is the alternative. Ours: the words of the prompt, and the
policy `other` for what no policy describes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wye.query.base import RouterError
from wye.query.chat_models.base import ChatModel, Message
from wye.query.prompts.label_choice import By, LabelAsker, LabelChoice

OTHER = "other"
_OTHER = "anything that none of the routes above describes"
_PROMPT = """\
Below are routes, each with a name and a description, and then a conversation. Which route describes
best what the user wants in the last message, in the light of the messages before it? Reply with the
name of one route and nothing else.

Routes:
{routes}

Conversation:
{conversation}"""


@dataclass(frozen=True)
class PolicyMatch:
    """Where a conversation goes.

    Attributes:
        policy: its name.
        target: the model that the table has for it.
        probabilities: of each policy, summing to one; empty where the model was asked to write.
        asked: what asking took and said.
    """

    policy: str
    target: str
    probabilities: Mapping[str, float]
    asked: LabelChoice


class ArchRouter:
    """Policies in words, a model that names one, and a table from policies to models.

    Args:
        model: names the policy.
        policies: name -> description.
        targets: policy -> model, for every policy and for `other`; may change at any time.
        by: `log-probabilities` or `text`, see `wye.query.prompts.label_choice`; written
            answers that begin with no name are `other`.

    Raises:
        RouterError: no policy, one named `other`, or a policy without a target.

    Example:
        >>> from wye.query.chat_models import ProgramChatModel
        >>> clerk = ProgramChatModel("clerk", lambda m: "code" if "bug" in m[0]["content"] else "")
        >>> targets = {"code": "L", "other": "S"}
        >>> router = ArchRouter(clerk, {"code": "programs"}, targets, by="text")
        >>> router.choose([{"role": "user", "content": "Find the bug."}]).target
        'L'
    """

    def __init__(
        self,
        model: ChatModel,
        policies: Mapping[str, str],
        targets: Mapping[str, str],
        *,
        by: By = "log-probabilities",
    ) -> None:
        if not policies or OTHER in policies:
            raise RouterError(
                f"policies are {list(policies)}; expected at least one, none of them {OTHER!r}, "
                "which stands for what none of them describes"
            )
        if missing := sorted({*policies, OTHER} - set(targets)):
            raise RouterError(
                f"the policies {missing} have no target; targets has {sorted(targets)}"
            )
        self.policies = {**policies, OTHER: _OTHER}
        self.targets = dict(targets)
        self.asker = LabelAsker(model, list(self.policies), by=by, max_tokens=24)

    def choose(self, conversation: Sequence[Message]) -> PolicyMatch:
        """The policy and model of a conversation.

        Raises:
            RouterError: no message, or a policy that has lost its target.
            ChatModelError: the model fails, or does not score labels.
        """
        if not conversation:
            raise RouterError("the conversation is empty; expected one message at least")
        asked = self.asker.ask([{"role": "user", "content": self.prompt(conversation)}])
        policy = asked.label or OTHER
        if policy not in self.targets:
            raise RouterError(
                f"the policy {policy!r} has no target; targets has {sorted(self.targets)}"
            )
        scores = asked.log_probabilities
        shares = (
            {} if scores is None else dict(zip(self.policies, np.exp(scores).tolist(), strict=True))
        )
        return PolicyMatch(policy, self.targets[policy], shares, asked)

    def prompt(self, conversation: Sequence[Message]) -> str:
        """What the model is asked."""
        return _PROMPT.format(
            routes="\n".join(f"{name}: {text}" for name, text in self.policies.items()),
            conversation="\n".join(f"{m['role']}: {m['content']}" for m in conversation),
        )
