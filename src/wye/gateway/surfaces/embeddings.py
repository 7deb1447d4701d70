"""Surface: OpenAI's embeddings. One answer, never a stream.

Vectors of two models cannot be compared, so a choice is made only among targets of one model.

Source: OpenAI's API reference, "Embeddings".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from wye.gateway.money.usage import usage_of
from wye.gateway.openai_api import ChatRequest, wrong
from wye.gateway.surfaces.body import Body
from wye.gateway.surfaces.contract import Reading, Surface
from wye.gateway.surfaces.fields import model_of
from wye.query.ask import MAX_CHARS

if TYPE_CHECKING:
    from wye.gateway.config import Target

# Estimates count four characters to a token; a token given as a number is one.
_TOKEN_CHARACTERS = 4


class Embeddings(Surface):
    """`POST /v1/embeddings`."""

    name: ClassVar[str] = "embeddings"
    path: ClassVar[str] = "/v1/embeddings"
    upstream_path: ClassVar[str] = "embeddings"
    answer_name: ClassVar[str] = "list of embeddings"

    def read(self, body: dict[str, Any], headers: Mapping[str, str]) -> ChatRequest:
        """Model and input: a text, texts, tokens, or lists of tokens."""
        model, inputs = model_of(body), _inputs(body.get("input"))
        texts = [given for given in inputs if isinstance(given, str)]
        return ChatRequest(
            body=Body(body, surface=self.name),
            model=model,
            stream=False,
            wants_usage=True,
            text="\n".join(texts)[:MAX_CHARS],
            needs=frozenset(),
            characters=sum(
                len(given) * (1 if isinstance(given, str) else _TOKEN_CHARACTERS)
                for given in inputs
            ),
            max_output=0,
            turns=len(inputs),
        )

    def is_answer(self, answer: Mapping[str, Any]) -> bool:
        """It has vectors."""
        data = answer.get("data")
        return isinstance(data, list) and bool(data) and isinstance(data[0], dict)

    def is_piece(self, piece: Mapping[str, Any]) -> bool:
        """There are no pieces."""
        return False

    def take(self, answer: Mapping[str, Any], reading: Reading) -> None:
        """Usage; vectors have neither text nor an end."""
        reading.usage = usage_of(answer) or reading.usage

    def ends(self, piece: Mapping[str, Any]) -> bool:
        """There are no pieces."""
        return False

    def unroutable(self, request: ChatRequest, targets: Sequence[Target]) -> str | None:
        """Vectors of different models do not compare."""
        models = {target.upstream_model for target in targets}
        if len(models) < 2:
            return None
        return (
            "vectors of different models cannot be compared, so none is chosen for you; ask for "
            f"one of {', '.join(target.name for target in targets)}"
        )


def _inputs(given: Any) -> list[str | list[int]]:
    """The input as a list of texts or of lists of tokens."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if all(_is_token(item) for item in given):
            return [given]
        if all(isinstance(item, str) for item in given):
            return given
        if all(isinstance(item, list) and item and all(map(_is_token, item)) for item in given):
            return given
    raise wrong("input", given, "a text, a list of texts, a list of tokens or lists of tokens")


def _is_token(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


EMBEDDINGS = Embeddings()
