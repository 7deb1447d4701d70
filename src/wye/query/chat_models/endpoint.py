"""A chat model behind any OpenAI-compatible endpoint (`POST {base_url}/chat/completions`)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from wye.embed.json_endpoint import JsonEndpoint
from wye.query.base import FloatArray
from wye.query.chat_models.asking import call_cost, check_call, check_labels
from wye.query.chat_models.base import ChatModel, ChatModelError, Generation, Message, normalised

MOST_TOP_LOGPROBS = 20
# Share of the labels' probability that may lie on a token with which several of them begin.
AMBIGUOUS = 0.01


class EndpointChatModel(ChatModel):
    """A model that an OpenAI-compatible endpoint serves.

    Args:
        base_url: up to and including the version, such as `https://api.openai.com/v1`.
        model: the endpoint's name of the model.
        api_key_env: environment variable that holds the key; no key is sent when it is None.
        top_logprobs: alternatives asked for at each token, 0 to 20; at 0 no log-probabilities are
            asked for, which some endpoints refuse.
        limit_field: how the endpoint names the limit on generated tokens.
        retries, timeout: see `wye.embed.json_endpoint.JsonEndpoint`.
        price_in_per_mtok, price_out_per_mtok: USD per million tokens; NaN leaves the cost unknown.

    Raises:
        ChatModelError: a parameter is wrong.

    Example:
        >>> EndpointChatModel("http://127.0.0.1:8081/v1", "small").name
        'endpoint:http://127.0.0.1:8081/v1#small'
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None = None,
        *,
        top_logprobs: int = 0,
        limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        retries: int = 4,
        timeout: float = 120.0,
        price_in_per_mtok: float = math.nan,
        price_out_per_mtok: float = math.nan,
    ) -> None:
        if not 0 <= top_logprobs <= MOST_TOP_LOGPROBS:
            raise ChatModelError(f"top_logprobs is {top_logprobs}, expected 0 to 20")
        if limit_field not in ("max_tokens", "max_completion_tokens"):
            raise ChatModelError(
                f"limit_field is {limit_field!r}, expected max_tokens or max_completion_tokens"
            )
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.api_key_env = api_key_env
        self.top_logprobs = top_logprobs
        self.limit_field = limit_field
        self.retries = retries
        self.timeout = timeout
        self.price_in_per_mtok = price_in_per_mtok
        self.price_out_per_mtok = price_out_per_mtok
        self.name = f"endpoint:{self.base_url}#{model}"
        self._endpoint = JsonEndpoint(
            self.name, base_url, api_key_env, retries=retries, timeout=timeout, error=ChatModelError
        )

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        """One call; see `ChatModel.generate`.

        Raises:
            ChatModelError: the call is out of range; the key is not set; the endpoint or its model
                refused, did not answer in time, cannot be reached, or answered nonsense.
        """
        check_call(self.name, messages, max_tokens=max_tokens, temperature=temperature, top_p=top_p)
        body = self._body(messages, max_tokens, temperature, top_p, seed, stop)
        if self.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        began = time.perf_counter()
        answered = self._endpoint.post("chat/completions", body)
        seconds = time.perf_counter() - began
        try:
            return self._generation(answered, seconds)
        except ChatModelError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise self._nonsense(answered) from error

    def label_log_probabilities(
        self, messages: Sequence[Message], labels: Sequence[str]
    ) -> FloatArray:
        """`[L]` log-probability of each label by its first token, normalised over the labels.

        One call of one token that asks for the 20 most probable. A label counts all of them with
        which it begins; a label that begins with none of them gets the most that the list leaves
        possible for it.

        Raises:
            ChatModelError: the endpoint gives no log-probabilities, no label is among the tokens,
                or several labels begin with the same one; else as `generate`.
        """
        check_call(self.name, messages)
        check_labels(self.name, labels)
        body = self._body(messages, 1, 0.0, 1.0, None, ())
        body |= {"logprobs": True, "top_logprobs": MOST_TOP_LOGPROBS}
        answered = self._endpoint.post("chat/completions", body)
        try:
            tokens = _tokens(answered["choices"][0])
            if not tokens or not tokens[0].get("top_logprobs"):
                raise ChatModelError(
                    f"{self.name} gave no top_logprobs, so labels cannot be scored; use an "
                    "endpoint that does (llama.cpp, vLLM, OpenAI) or a model in this process "
                    "(TransformersChatModel)"
                )
            listed = {str(t["token"]): float(t["logprob"]) for t in tokens[0]["top_logprobs"]}
        except ChatModelError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise self._nonsense(answered) from error
        return normalised(_by_first_token(self.name, listed, labels))

    def _body(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        temperature: float,
        top_p: float,
        seed: int | None,
        stop: Sequence[str],
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(m) for m in messages],
            self.limit_field: max_tokens,
            "temperature": temperature,
        }
        if top_p < 1.0:
            body["top_p"] = top_p
        if seed is not None:
            body["seed"] = seed
        if stop:
            body["stop"] = list(stop)
        return body

    def _generation(self, answered: Any, seconds: float) -> Generation:
        choice = answered["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason") or "stop"
        text = message.get("content")
        if not text and (message.get("refusal") or finish == "content_filter"):
            why = message.get("refusal") or "its content filter"
            raise ChatModelError(f"{self.name} declined to answer: {why}")
        if not isinstance(text, str | None):
            raise TypeError(f"content is {type(text).__name__}")
        usage = answered["usage"]
        n_in, n_out = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        own, runner_up = _log_probabilities(_tokens(choice))
        return Generation(
            text=text or "",
            input_tokens=n_in,
            output_tokens=n_out,
            finish_reason=finish,
            model=str(answered.get("model") or self.model),
            log_probabilities=own,
            runner_up=runner_up,
            seconds=seconds,
            cost_usd=call_cost(n_in, n_out, self.price_in_per_mtok, self.price_out_per_mtok),
        )

    def _nonsense(self, answered: Any) -> ChatModelError:
        return ChatModelError(
            f"{self.name} answered JSON that is no chat completion with choices[].message and "
            f"usage: {str(answered)[:200]}"
        )


def _tokens(choice: Mapping[str, Any]) -> list[Any]:
    return list((choice.get("logprobs") or {}).get("content") or [])


def _log_probabilities(tokens: Sequence[Any]) -> tuple[FloatArray | None, FloatArray | None]:
    """Of the generated tokens and of the best other token listed at each place, `[T]` each."""
    if not tokens:
        return None, None
    own = np.array([float(t["logprob"]) for t in tokens])
    if not any(t.get("top_logprobs") for t in tokens):
        return own, None
    others = [
        max(
            (float(o["logprob"]) for o in t.get("top_logprobs") or () if o["token"] != t["token"]),
            default=-math.inf,
        )
        for t in tokens
    ]
    return own, np.array(others)


def _by_first_token(name: str, listed: Mapping[str, float], labels: Sequence[str]) -> FloatArray:
    """`[L]` log-probability of each label by the `listed` first tokens with which it begins."""
    mass, ambiguous = np.zeros(len(labels)), 0.0
    for token, log_probability in listed.items():
        begun = token.lstrip()
        owners = [i for i, label in enumerate(labels) if begun and label.startswith(begun)]
        if len(owners) == 1:
            mass[owners[0]] += math.exp(log_probability)
        elif owners:
            ambiguous += math.exp(log_probability)
    if ambiguous > AMBIGUOUS * (mass.sum() + ambiguous):
        raise ChatModelError(
            f"several of the labels {list(labels)} begin with the same token of {name}; choose "
            "labels that differ from their first letter on"
        )
    if not mass.any():
        raise ChatModelError(
            f"{name} begins its answer with none of the labels {list(labels)}; its most probable "
            f"first tokens are {list(listed)[:5]}: ask for the label alone in the prompt"
        )
    left = max(1e-12, 1.0 - sum(math.exp(v) for v in listed.values()))
    most = min(math.exp(min(listed.values())), left)
    return np.log(np.where(mass > 0, mass, most))
