"""Which models an OpenAI-compatible endpoint serves (`GET {base_url}/models`)."""

from __future__ import annotations

import os

from wye.query.chat_models.base import ChatModelError


def only_model(base_url: str, api_key_env: str | None = None, *, timeout: float = 10.0) -> str:
    """The name of the one model that an endpoint serves.

    Args:
        base_url: up to and including the version.
        api_key_env: environment variable that holds the key; no key is sent when it is None.
        timeout: seconds.

    Raises:
        ChatModelError: the endpoint cannot be reached, lists no models, or more than one.
    """
    import httpx

    headers = {}
    if api_key_env is not None:
        if not os.environ.get(api_key_env):
            raise ChatModelError(f"the environment variable {api_key_env} with the key is not set")
        headers["Authorization"] = f"Bearer {os.environ[api_key_env]}"
    address = f"{base_url.rstrip('/')}/models"
    try:
        answered = httpx.get(address, headers=headers, timeout=timeout)
        answered.raise_for_status()
        names = [str(entry["id"]) for entry in answered.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        said = str(error).partition("\n")[0]
        raise ChatModelError(
            f"{address} does not answer ({type(error).__name__}: {said}); is the endpoint up, and "
            "does its base URL end with the version, as in http://127.0.0.1:8080/v1?"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ChatModelError(f"{address} lists no models; give --model NAME") from error
    if len(names) != 1:
        raise ChatModelError(f"{address} lists the models {names[:20]}; give one as --model NAME")
    return names[0]
