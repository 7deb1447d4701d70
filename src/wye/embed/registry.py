"""Embedders by name."""

from __future__ import annotations

from importlib.metadata import entry_points

from wye.embed.base import Embedder, EmbedError

ENTRY_POINTS = "wye.embedders"
BUILT_IN = ("static", "tfidf", "minilm", "endpoint")


def get_embedder(spec: str | Embedder) -> Embedder:
    """The embedder that `spec` names; an embedder is returned as it is.

    Args:
        spec: `static`, `tfidf`, `minilm`, `endpoint:<base_url>#<model>` (with `#<KEY_VARIABLE>`
            behind it where a key is needed), or the name of an entry point of the group
            `wye.embedders`, whose object is called without arguments. Several joined by ` + ` or
            `+` (`static+tfidf`) stand side by side in one vector; an endpoint cannot be joined so.

    Raises:
        EmbedError: nothing has that name.

    Example:
        >>> get_embedder("static").dim
        256
    """
    if isinstance(spec, Embedder):
        return spec
    if not isinstance(spec, str):
        raise EmbedError(f"expected the name of an embedder or an Embedder, got {spec!r}")
    kind, _, rest = spec.partition(":")
    if kind != "endpoint" and "+" in spec:
        from wye.embed.joined import JoinedEmbedder

        return JoinedEmbedder([get_embedder(part.strip()) for part in spec.split("+")])
    if kind == "static":
        from wye.embed.static import StaticEmbedder

        return StaticEmbedder(max_chars=_numbers(spec, rest, 1)[0]) if rest else StaticEmbedder()
    if kind == "tfidf":
        from wye.embed.tfidf import TfidfEmbedder

        if not rest:
            return TfidfEmbedder()
        dim, ngrams = _numbers(spec, rest, 2)
        return TfidfEmbedder(dim=dim, ngrams=ngrams)
    if kind == "minilm" and not rest:
        from wye.embed.minilm import MiniLMEmbedder

        return MiniLMEmbedder()
    if kind == "endpoint":
        return _endpoint(spec, rest)
    return _third_party(spec)


def _endpoint(spec: str, rest: str) -> Embedder:
    from wye.embed.endpoint import EndpointEmbedder

    base_url, *parts = rest.split("#")
    if not base_url or len(parts) not in (1, 2) or not all(parts):
        raise EmbedError(f"{spec!r} does not read endpoint:<base_url>#<model>[#<KEY_VARIABLE>]")
    return EndpointEmbedder(base_url, *parts)


def _third_party(spec: str) -> Embedder:
    found = {e.name: e for e in entry_points(group=ENTRY_POINTS)}
    if spec not in found:
        raise EmbedError(
            f"no embedder is named {spec!r}; there are {sorted({*BUILT_IN, *found})}, where "
            "endpoint is written endpoint:<base_url>#<model>"
        )
    made = found[spec].load()()
    if not isinstance(made, Embedder):
        raise EmbedError(f"the entry point {spec!r} made {made!r}, expected an Embedder")
    return made


def _numbers(spec: str, rest: str, count: int) -> list[int]:
    parts = rest.split(",")
    if len(parts) != count or not all(p.isdigit() for p in parts):
        raise EmbedError(f"{spec!r}: expected {count} whole numbers after the colon, got {rest!r}")
    return [int(p) for p in parts]
