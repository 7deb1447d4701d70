"""`wye.toml`: what is accepted, and errors that name the line and the fix."""

from __future__ import annotations

import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.gateway.config import ConfigError
from wye.gateway.config_file import parse_config, read_config, with_server
from wye.gateway.example import PROVIDERS, example, write_example
from wye.gateway.toml_lines import key_lines

TARGET = """
[[targets]]
name = "one"
base_url = "http://127.0.0.1:1/v1"
"""


def test_one_target_is_enough():
    config = parse_config(TARGET)
    assert config.targets[0].upstream_model == "one"
    assert config.server.host == "127.0.0.1"
    assert config.first_policy in config.policies


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[server]\n\nport = "many"\n' + TARGET, "wye.toml:3: `server.port` is 'many'"),
        ("[server]\nport = 70000\n" + TARGET, "wye.toml:2: `server.port` is 70000"),
        (TARGET + "price_in_per_mtok = -1", "wye.toml:5: `targets.0.price_in_per_mtok` is -1"),
        (TARGET + 'base_ulr = "x"', "did you mean `base_url`?"),
        (
            "[targets]\nname = 'one'\n",
            "wye.toml:1: each target is a table of a list; write [[targets]]",
        ),
        ("[serwer]\n" + TARGET, "wye.toml:1: unknown key `serwer`; did you mean `server`?"),
        (TARGET + "\n[[targets]]\nkind = 'openai'", "wye.toml:6: `targets.1.name` is missing"),
        (TARGET + "\n[[targets]]\nname = 'two'", 'wye.toml:6: kind "openai" needs base_url'),
        (TARGET.replace("http:", "gopher:"), "wye.toml:2: base_url is 'gopher://"),
        (TARGET.replace(":1/", ":99999/"), "wye.toml:2: base_url is 'http://127.0.0.1:99999/v1'"),
        (TARGET.replace(":1/", ":x/"), "its port is none; ports are 1 to 65535"),
        (TARGET.replace("127.0.0.1:1", "a b"), "white space"),
        (TARGET.replace("127.0.0.1:1", ""), "it names no host"),
        (TARGET.replace("/v1", "/v1?key=x"), "it cannot have a ? or #"),
        (TARGET.replace("127.0.0.1:1", "[::1"), "it is no URL"),
        (
            TARGET.replace("base_url", "deployments = [{base_url").replace('/v1"', '/v1?x"}]'),
            "base_url is 'http://127.0.0.1:1/v1?x'; paths",
        ),
        (TARGET.replace('"one"', '"wye/fast"'), "wye.toml:3: the names wye and wye/..."),
        (TARGET + TARGET, "two targets are named one"),
        ('default_policy = "x"\n' + TARGET, "wye.toml:1: default_policy is 'x', which is not"),
        ('baseline = "x"\n' + TARGET, "wye.toml:1: baseline is 'x', which is not defined"),
        ('[server]\nhost = "0.0.0.0"\n' + TARGET, "access_key_env"),
        ('[server]\naccess_key_env = "UNSET_KEY"\n' + TARGET, "UNSET_KEY, which is not set"),
        (TARGET + "quality = 1.5", "wye.toml:5: `targets.0.quality` is 1.5"),
        (TARGET + "quality = nan", "wye.toml:5: `targets.0.quality` is nan"),
        (TARGET + 'tags = ["colour"]', "wye.toml:5: `targets.0.tags.0` is 'colour'"),
        (TARGET + "timeouts = { first = 3 }", "wye.toml:5: unknown key `targets.0.timeouts.first`"),
        ("[store]\nbatch_seconds = 0\n" + TARGET, "wye.toml:2: `store.batch_seconds` is 0"),
        ("", "`targets` is missing; add at least one [[targets]] table"),
        ("port = ", "wye.toml: not TOML: "),
    ],
)
def test_an_error_names_the_line_what_stood_there_and_the_fix(text, said):
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert said in str(caught.value)


def test_every_error_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_config('[server]\nport = -1\nhots = "x"\n' + TARGET + "context = 0")
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="wye init"):
        read_config(tmp_path / "wye.toml")


def test_paths_count_from_the_files_own_folder(tmp_path):
    path = tmp_path / "wye.toml"
    path.write_text('[store]\npath = "log.db"\n[router]\npath = "trained"\n' + TARGET)
    config = read_config(path)
    assert config.store.place() == tmp_path / "log.db"
    assert config.router.path == tmp_path / "trained"


def test_prompts_are_kept_on_loopback_and_not_for_strangers(monkeypatch):
    monkeypatch.setenv("ACCESS", "long and random")
    open_server = '[server]\nhost = "0.0.0.0"\naccess_key_env = "ACCESS"\n'
    assert parse_config(TARGET).prompts_kept
    assert not parse_config(open_server + TARGET).prompts_kept
    assert parse_config("[store]\nstore_prompts = true\n" + open_server + TARGET).prompts_kept
    assert not parse_config("[store]\nstore_prompts = false\n" + TARGET).prompts_kept


def test_the_command_lines_address_obeys_the_same_rules():
    config = parse_config(TARGET)
    assert with_server(config, port=9).server.port == 9
    with pytest.raises(ConfigError, match=r"host 0\.0\.0\.0 lets other machines"):
        with_server(config, host="0.0.0.0")


@given(st.sets(st.sampled_from([p.key for p in PROVIDERS])))
def test_the_example_is_valid_and_offers_the_keys_that_were_found(keys):
    text, found = example("wye.toml", dict.fromkeys(keys, "secret-value"))
    config = parse_config(text)
    assert set(found) == keys
    assert {t.api_key_env for t in config.targets if t.kind == "openai"} == keys
    assert "secret-value" not in text


@given(st.sets(st.sampled_from([p.key for p in PROVIDERS])))
def test_the_example_is_still_valid_with_every_suggestion_taken(keys):
    text, _ = example("wye.toml", dict.fromkeys(keys, "x"))
    taken = re.sub(r"^# (?=\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)
    values = tomllib.loads(taken)
    assert len(values["targets"]) >= 2
    parse_config(taken)


def test_a_file_that_exists_is_replaced_only_by_force(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    path = tmp_path / "wye.toml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        write_example(path)
    assert path.read_text() == "mine"
    assert "OPENAI_API_KEY" in write_example(path, force=True)
    assert "sk-secret" not in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["wye.toml"]


NAMES = st.text("abc-_", min_size=1, max_size=4)
VALUES = st.one_of(
    st.integers(),
    st.text("ab[]=#'\\ ", max_size=8),
    st.lists(st.integers(), max_size=3),
    st.booleans(),
)


def toml_value(value):
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower()


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, min_size=1), max_size=4))
def test_every_key_of_a_table_is_found_on_its_line(tables):
    lines, places = [], {}
    for table, values in tables.items():
        lines.append(f'[ "{table}" ]  # a comment = [here]')
        for key, value in values.items():
            lines.append(f"'{key}' = {toml_value(value)}")
            places[(table, key)] = len(lines)
    text = "\n".join(lines)
    assert tomllib.loads(text) == tables
    found = key_lines(text)
    assert {place: found[place] for place in places} == places


LOOKALIKES = ('\'"""\'', "\"'''\"", '"""x"""', '1 # """', "'''it's\n'''")


@pytest.mark.parametrize("value", LOOKALIKES)
def test_what_looks_like_the_start_of_a_long_string_hides_no_key(value):
    text = f"a = {value}\n[server]\nport = 1\n"
    assert tomllib.loads(text)["server"] == {"port": 1}
    assert key_lines(text)["server", "port"] == len(text.splitlines())


def test_keys_inside_long_strings_are_not_taken_for_keys():
    text = 'a = """\n[server]\nport = 1\n"""\n[server]\nport = 2\n'
    assert key_lines(text)[("server", "port")] == 6
