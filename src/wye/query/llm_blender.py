"""LLM-Blender: all models answer, a ranker compares the answers in pairs, the best ones are fused.

Selects among answers, after all of them exist, on question and answers. Source: Jiang, Ren and Lin,
LLM-Blender, arXiv 2306.02561.

    PairRanker  s(q, a, b) = f(q, a, b) - f(q, b, a),    P(a better than b) = sigmoid(s)
                rank answers by the number of comparisons won; ties by the sum of s
    GenFuser    one model writes the answer from the question and the three answers ranked first

The paper fine-tunes an encoder over the question and both answers as f; here it is a network on
embeddings, x = [e_q, e_a, e_b, e_q * (e_a - e_b), e_a * e_b, z_a, z_b], with z the text features of
an answer and whatever was observed of it. The difference makes s antisymmetric, so that no order in
which answers are shown is preferred. Ours: cross-entropy on the sign of the difference in quality;
equal answers teach nothing. Fusing uses a prompt of ours and any chat model.

Shape letters: Q queries, K answers to each, N pairs, D embedding width, X observed figures, F
hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

from wye.query.base import RouterError
from wye.query.chat_models.base import ChatModel, Generation
from wye.query.pair_ranker import PairRanker as PairRanker
from wye.query.pair_ranker import rank_by_wins as rank_by_wins
from wye.query.stored_system import StoredSystem


def fusion_prompt(question: str, answers: Sequence[str]) -> str:
    """The prompt from which GenFuser writes one answer.

    Raises:
        RouterError: no answers.
    """
    if not answers:
        raise RouterError("no answers to fuse; give one at least")
    listed = "\n\n".join(f"Candidate {n}: {a}" for n, a in enumerate(answers, start=1))
    return (
        "Write the best answer to the question. Candidate answers follow, the most trusted first; "
        "keep what is right in them and correct what is wrong. Do not mention the candidates.\n\n"
        f"Question: {question}\n\n{listed}\n\nAnswer:"
    )


@dataclass(frozen=True)
class Blend:
    """One question answered: who was ranked how, and what was made of it.

    Attributes:
        order: places of the answers, the best first.
        generation: of the fuser; None where the first answer was taken as it is.
        text: the answer.
    """

    order: tuple[int, ...]
    generation: Generation | None
    text: str


class LLMBlender(StoredSystem):
    """Rank the answers to a question and fuse the first of them.

    Args:
        ranker: fitted.
        fuser: who writes the fused answer; None takes the answer ranked first.
        top: answers that are fused.
    """

    not_stored: ClassVar[tuple[str, ...]] = ("fuser",)

    def __init__(self, ranker: PairRanker, fuser: ChatModel | None = None, *, top: int = 3) -> None:
        if top < 1:
            raise RouterError(f"top={top}, expected at least 1")
        self.ranker = ranker
        self.fuser = fuser
        self.top = top

    def blend(self, question: str, answers: Sequence[str], *, max_tokens: int = 512) -> Blend:
        """Rank `answers`, and fuse the first of them where there is a fuser.

        Raises:
            NotFittedError: the ranker is not fitted.
            ChatModelError: the fuser cannot answer.
        """
        order = tuple(self.ranker.rank([question], [list(answers)])[0].tolist())
        if self.fuser is None:
            return Blend(order, None, answers[order[0]])
        content = fusion_prompt(question, [answers[i] for i in order[: self.top]])
        made = self.fuser.generate([{"role": "user", "content": content}], max_tokens=max_tokens)
        return Blend(order, made, made.text)

    @classmethod
    def load(cls, directory: str | Path, *, fuser: ChatModel | None = None) -> Self:
        """Read what `save` wrote to `directory`.

        Args:
            directory: the folder.
            fuser: who writes the fused answer; a model is not stored.

        Raises:
            RouterError: as `StoredSystem.load`, or the ranker was learned with another embedder.
        """
        return cls._loaded(directory, fuser=fuser)

    def get_params(self) -> dict[str, Any]:
        """Those of the ranker, and how many answers are fused."""
        return super().get_params() | {"ranker": self.ranker.get_params()}

    def get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """What the ranker learned.

        Raises:
            NotFittedError: the ranker is not fitted.
        """
        return self.ranker.get_state()

    def set_state(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore what `get_state` returned.

        Raises:
            RouterError: the ranker was learned with another embedder.
        """
        self.ranker.set_state(arrays, values)

    @classmethod
    def _built(cls, params: dict[str, Any]) -> Self:
        return cls(**{**params, "ranker": PairRanker(**params["ranker"])})
