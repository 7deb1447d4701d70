"""any-llm, loaded only where a target needs it (extra `providers`)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from wye.gateway.config import Target
from wye.gateway.environment import secret

if TYPE_CHECKING:
    from any_llm import AnyLLM

# What a client is made with where the target has no key: nothing of the environment is sent then.
_NO_KEY = "none"


def require(what: str) -> None:
    """Make sure that any-llm is here, and load it: no request is to wait for that second or two.

    Args:
        what: what needs it, for the message.

    Raises:
        ValueError: it is not, and the message says how to install it.
    """
    if find_spec("any_llm") is None:
        raise ValueError(
            f'{what} needs any-llm, which is not installed: pip install "wye[providers]"'
        )
    import_module("any_llm.utils.messages_compat")


def provider_class(name: str) -> type[AnyLLM]:
    """The library's class of a provider.

    Raises:
        ValueError: it knows none of the name, or the provider's own client is not installed.
    """
    from any_llm import AnyLLM, UnsupportedProviderError

    try:
        found = AnyLLM.get_provider_class(name)
    except UnsupportedProviderError:
        known = ", ".join(sorted(AnyLLM.get_supported_providers()))
        raise ValueError(f"provider is {name!r}; any-llm knows {known}") from None
    except ImportError as error:
        raise ValueError(f"provider {name!r} cannot be loaded: {error}") from error
    if found.MISSING_PACKAGES_ERROR is not None:
        raise ValueError(
            f"provider {name!r} needs its own client: pip install any-llm-sdk[{name}] "
            f"({found.MISSING_PACKAGES_ERROR})"
        )
    return found


def client(
    provider: str, *, key: str | None, address: str | None, options: Mapping[str, Any]
) -> AnyLLM:
    """A client of a provider that retries nothing by itself, since the gateway does.

    Args:
        key: None for the one in the provider's own variable of the environment. It is never sent to
            an `address` of the target's own.
        address: None for the provider's own.
        options: more arguments of the provider's client.

    Raises:
        AnyLLMError: there is no key, or the options are wrong.
    """
    from any_llm import AnyLLM

    arguments: dict[str, Any] = dict(options)
    if provider_class(provider).MAX_RETRIES_SUPPORT != "unsupported":
        arguments.setdefault("max_retries", 0)
    if key is None and address is not None:
        key = _NO_KEY
    return AnyLLM.create(
        provider, api_key=key, api_base=address, unified_exceptions=True, **arguments
    )


def key_of(target: Target) -> str | None:
    """The target's key in the environment at this moment; '' where it is named and not set."""
    return secret(target.api_key_env) if target.api_key_env else None
