"""Prompt router: a language model reads what each model is good at and names one.

Routes a query to a model, before an answer, on the text and on the models' descriptions in words;
nothing is learned, so a model joins by its description. This is the prompted baseline that papers
compare with, and the model-selection step of Shen et al., HuggingGPT, arXiv 2303.17580.

The model names its choice in writing or by the log-probabilities of the names. A written reply that
begins with no name goes to `otherwise`. Descriptions stand in the order given; models favour early
ones, which `shuffled` undoes by an order drawn anew for each query from the seed and the query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wye.query.base import RouterError
from wye.query.chat_models.base import ChatModel
from wye.query.prompts.label_choice import By, LabelAsker, LabelChoice

_PROMPT = """\
Which of these models should answer the query below? Take the one that is most likely to answer it
well; of several that are, the cheapest. Reply with its name first.

Models:
{models}

Query:
{query}"""


@dataclass(frozen=True)
class DescribedChoice:
    """Which model takes a query.

    Attributes:
        target: its name.
        fallback: whether the reply named none, so that it is the one for such replies.
        asked: what asking took and said.
    """

    target: str
    fallback: bool
    asked: LabelChoice


class DescriptionRouter:
    """Chooses by descriptions.

    Args:
        model: reads and names.
        descriptions: name of a target -> what it is good at and costs, in words.
        otherwise: the target of a reply that names none.
        by: `text` or `log-probabilities`, see `wye.query.prompts.label_choice`.
        shuffled: whether each query sees the descriptions in another order.
        seed: of these orders.

    Raises:
        RouterError: no descriptions, or `otherwise` is not among them.

    Example:
        >>> from wye.query.chat_models import ProgramChatModel
        >>> reader = ProgramChatModel("reader", lambda messages: "large, since it is hard")
        >>> pool = {"small": "cheap, facts", "large": "dear, proofs"}
        >>> DescriptionRouter(reader, pool, otherwise="small").choose("Prove it.").target
        'large'
    """

    def __init__(
        self,
        model: ChatModel,
        descriptions: Mapping[str, str],
        *,
        otherwise: str,
        by: By = "text",
        shuffled: bool = False,
        seed: int = 0,
    ) -> None:
        if otherwise not in descriptions:
            raise RouterError(
                f"otherwise is {otherwise!r}, expected one of the described {list(descriptions)}"
            )
        self.descriptions = dict(descriptions)
        self.otherwise = otherwise
        self.shuffled = shuffled
        self.seed = seed
        self.asker = LabelAsker(model, list(descriptions), by=by)

    def choose(self, query: str) -> DescribedChoice:
        """The target of a query.

        Raises:
            ChatModelError: the model fails, or does not score labels.
        """
        asked = self.asker.ask([{"role": "user", "content": self.prompt(query)}])
        return DescribedChoice(asked.label or self.otherwise, asked.label is None, asked)

    def prompt(self, query: str) -> str:
        """What the model is asked."""
        names = list(self.descriptions)
        if self.shuffled:
            drawn = hashlib.sha256(f"{self.seed}:{query}".encode("utf-8", "surrogatepass")).digest()
            generator = np.random.default_rng(int.from_bytes(drawn[:8], "big"))
            names = [names[i] for i in generator.permutation(len(names))]
        models = "\n".join(f"{name}: {self.descriptions[name]}" for name in names)
        return _PROMPT.format(models=models, query=query)
