"""What every surface reads alike of a request's body: its model, flags, sizes and media.

Lengths count text only: what stands for a picture, a sound or a file is no text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wye.gateway.openai_api import wrong

# Values under these names are media, signatures or ciphertext.
NO_TEXT = {
    "audio", "container", "data", "encrypted_content", "file_data", "file_url", "image_url",
    "input_audio", "signature", "source_url",
}  # fmt: skip


def model_of(body: Mapping[str, Any]) -> str:
    """The model asked for.

    Raises:
        ApiError: there is none.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise wrong("model", model, 'a name, for instance "wye"')
    return model


def flag(body: Mapping[str, Any], name: str) -> bool:
    """A field that is true, false, null or missing.

    Raises:
        ApiError: it is something else.
    """
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise wrong(name, value, "true or false")
    return bool(value)


def objects(values: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects.

    Raises:
        ApiError: it is something else, or one of them is.
    """
    if not isinstance(values, list):
        raise wrong(where, values, "a list of objects")
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise wrong(f"{where}[{index}]", value, "an object")
    return values


def characters(value: Any) -> int:
    """Length of all text within a JSON value, media left out."""
    size, left = 0, [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, dict):
            left.extend(inner for name, inner in item.items() if name not in NO_TEXT)
        elif isinstance(item, list):
            left.extend(item)
    return size


def typed(value: Any) -> Iterator[dict[str, Any]]:
    """Every object within a JSON value whose `type` is a string, in no particular order."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            if isinstance(item.get("type"), str):
                yield item
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)


def kept_elsewhere(value: Any) -> str | None:
    """What within a JSON value stands for something that only its provider has; None for nothing.

    A file that was given to the provider before, or an item of an answer that it keeps.
    """
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            if item.get("type") == "item_reference":
                return "item_reference"
            if isinstance(item.get("file_id"), str):
                return "file_id"
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)
    return None
