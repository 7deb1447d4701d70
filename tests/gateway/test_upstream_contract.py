"""Upstreams of others, found by their entry point, and answers of any shape at all."""

from __future__ import annotations

import json
import sys
from dataclasses import astuple
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.config import Config, ConfigError, Target
from wye.gateway.endpoint import Endpoint
from wye.gateway.surfaces import CHAT, Reading
from wye.gateway.upstream import UpstreamError, build_upstreams

PLUGIN = '''
from wye.gateway.openai_api import chunk, completion
from wye.gateway.upstream import Upstream


class Parrot(Upstream):
    """Says what it heard."""

    def __init__(self, target):
        self.times = int(target.options["times"])

    async def complete(self, request):
        text = request["messages"][-1]["content"] * self.times
        usage = {"prompt_tokens": 1, "completion_tokens": self.times}
        return completion(
            answer_id="1", model="parrot", text=text, finish_reason="stop", usage=usage
        )

    async def stream(self, request):
        for _ in range(self.times):
            yield chunk(answer_id="1", model="parrot", delta={"content": "x"})
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package beside ours that names an upstream under the entry point group."""
    (tmp_path / "parrot_plugin.py").write_text(PLUGIN)
    info = tmp_path / "parrot_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[wye.upstreams]\nparrot = parrot_plugin:Parrot\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("parrot_plugin", None)


def test_an_upstream_of_a_third_party_answers(serve, plugin):
    served = serve(targets=[{"name": "bird", "kind": "parrot", "options": {"times": 2}}])
    assert served.ask(text="hi").json()["choices"][0]["message"]["content"] == "hihi"
    assert served.ask(text="hi", stream=True).text.count('"content": "x"') == 2


def test_options_that_an_upstream_refuses_name_the_target(plugin):
    config = Config.model_validate(
        {"targets": [{"name": "bird", "kind": "parrot", "options": {"times": "many"}}]}
    )
    with pytest.raises(ConfigError, match="target bird: "):
        build_upstreams(config.targets)


def test_a_kind_that_nothing_provides_lists_the_known_ones():
    config = Config.model_validate({"targets": [{"name": "a", "kind": "parrott"}]})
    with pytest.raises(ConfigError, match=r"'embedded', 'openai'.*wye\.upstreams"):
        build_upstreams(config.targets)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "delta",
                    "content",
                    "finish_reason",
                    "usage",
                    "error",
                    "prompt_tokens",
                    "completion_tokens",
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=15,
)
ANSWERS = st.dictionaries(st.sampled_from(["choices", "usage", "error", "id"]), JSON)


def read(method, raw):
    try:
        return method(raw)
    except UpstreamError as error:
        return error


@given(st.one_of(st.binary(max_size=50), ANSWERS.map(lambda value: json.dumps(value).encode())))
def test_any_answer_of_an_upstream_is_passed_on_whole_or_is_an_upstream_error(raw):
    endpoint = Endpoint(Target(name="any", base_url="http://127.0.0.1:1"))
    for method in (endpoint._answer, endpoint._piece):
        found = read(partial(method, surface=CHAT), raw)
        if isinstance(found, UpstreamError):
            assert str(found).startswith("any ")
            continue
        json.dumps(found, allow_nan=False)
        reading = Reading()
        CHAT.take(found, reading)
        assert reading.characters >= 0
        assert reading.usage is None or min(astuple(reading.usage)) >= 0
