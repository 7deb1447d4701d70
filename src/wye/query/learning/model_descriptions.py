"""A sentence on each model, for routers that read what a model is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wye.data import RoutingData


def described(
    name: str,
    *,
    provider: object = None,
    params_b: object = None,
    price_in: object = None,
    price_out: object = None,
    context: object = None,
) -> str:
    """A sentence on a model from what is known of it; None and NaN are left out.

    Example:
        >>> described("qwen2.5-7b-instruct", provider="qwen", params_b=7.0)
        'The language model qwen2.5 7b instruct, by qwen, 7 billion parameters.'
    """
    parts = [f"The language model {name.replace('-', ' ').replace('/', ' ')}"]
    if _is_known(provider):
        parts.append(f"by {provider}")
    for value, unit in (
        (params_b, "billion parameters"),
        (price_in, "dollars per million tokens read"),
        (price_out, "dollars per million tokens written"),
        (context, "tokens of context"),
    ):
        if _is_known(value):
            parts.append(f"{float(str(value)):g} {unit}")
    return ", ".join(parts) + "."


def described_models(data: RoutingData, sentences: Mapping[str, str] | None = None) -> list[str]:
    """A sentence on each of the M models of a log, in their order.

    Args:
        data: whose table of models is read.
        sentences: by name, taken where they are given.
    """
    given = sentences or {}
    return [
        given.get(str(row.model))
        or described(
            str(row.model),
            provider=row.provider,
            params_b=row.params_b,
            price_in=row.price_in_per_mtok,
            price_out=row.price_out_per_mtok,
            context=row.context,
        )
        for row in data.models.itertuples()
    ]


def _is_known(value: object) -> bool:
    return value is not None and str(value) not in ("nan", "<NA>", "None", "")
