"""Text -> vector: the static default, hashed TF-IDF, MiniLM, any OpenAI-compatible endpoint."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.embed.base import Embedder as Embedder
    from wye.embed.base import EmbedError as EmbedError
    from wye.embed.cached import CachedEmbedder as CachedEmbedder
    from wye.embed.endpoint import EndpointEmbedder as EndpointEmbedder
    from wye.embed.joined import JoinedEmbedder as JoinedEmbedder
    from wye.embed.minilm import MiniLMEmbedder as MiniLMEmbedder
    from wye.embed.registry import get_embedder as get_embedder
    from wye.embed.static import StaticEmbedder as StaticEmbedder
    from wye.embed.tfidf import TfidfEmbedder as TfidfEmbedder

_HOME = {
    "CachedEmbedder": "cached",
    "EmbedError": "base",
    "Embedder": "base",
    "EndpointEmbedder": "endpoint",
    "JoinedEmbedder": "joined",
    "MiniLMEmbedder": "minilm",
    "StaticEmbedder": "static",
    "TfidfEmbedder": "tfidf",
    "get_embedder": "registry",
}

__all__ = [
    "CachedEmbedder",
    "EmbedError",
    "Embedder",
    "EndpointEmbedder",
    "JoinedEmbedder",
    "MiniLMEmbedder",
    "StaticEmbedder",
    "TfidfEmbedder",
    "get_embedder",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wye.embed.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wye.embed' has no attribute {name!r}; it has {sorted(_HOME)}")
