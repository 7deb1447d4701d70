"""data, systems, check, init and help."""

from pathlib import Path

from .conftest import Wye


def test_help_opens_without_the_heavy_rooms(wye: Wye) -> None:
    ended = wye("--help")
    assert ended.code == 0
    for command in ("up", "serve", "train", "eval", "route", "data", "systems", "check"):
        assert f" {command} " in ended.out


def test_the_embedded_set_is_listed_and_shown(wye: Wye) -> None:
    listed = wye("data", "list", "--json").json["data"]
    assert listed[0]["name"] == "embedded"
    assert listed[0]["problem"] is None
    shown = wye("data", "show", "embedded", "--json").json
    assert shown["queries"] == listed[0]["queries"] >= 1500


def test_a_round_trip_through_csv_keeps_every_outcome(wye: Wye, small_data: Path) -> None:
    assert wye("data", "convert", small_data, "csv", "--to", "csv").code == 0
    first = wye("data", "show", small_data, "--json").json
    second = wye("data", "show", "csv", "--json").json
    for report in (first, second):
        report.pop("name", None)
    assert first == second


def test_convert_never_writes_over_other_files(wye: Wye, small_data: Path, tmp_path: Path) -> None:
    precious = tmp_path / "out" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    ended = wye("data", "convert", small_data, "out")
    assert ended.code == 2
    assert precious.read_text() == "years of work"


def test_systems_lists_slugs_with_their_status(wye: Wye) -> None:
    systems = wye("systems", "--json").json["systems"]
    assert {"avengers-pro", "embedllm", "routellm-metrics", "cascade-routing"} <= {
        s["slug"] for s in systems
    }
    assert all(s["status"] for s in systems)


def test_a_check_prints_figure_threshold_and_seeds_and_its_exit_code_is_its_verdict(
    wye: Wye,
) -> None:
    ended = wye("check", "routellm-metrics", "--json")
    summary = ended.json
    (run,) = summary["checks"]
    assert ended.code == (0 if run["verdict"] == "holds" else 1)
    assert run["result"]["seeds"]
    assert all({"value", "threshold"} <= set(claim) for claim in run["result"]["claims"])


def test_init_writes_a_file_that_serve_accepts_and_keeps_yours(wye: Wye, tmp_path: Path) -> None:
    from wye.gateway.config_file import read_config

    ended = wye("init")
    assert ended.code == 0, ended.err
    assert read_config(tmp_path / "wye.toml").targets
    (tmp_path / "wye.toml").write_text("# mine")
    assert wye("init").code == 2
    assert (tmp_path / "wye.toml").read_text() == "# mine"
