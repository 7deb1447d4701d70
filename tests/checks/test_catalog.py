"""The catalogue names what is really there, and says which entry is wrong when it is not."""

import inspect
import json
import re
import tomllib
from importlib.metadata import EntryPoint
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from wye import catalog as catalog_module
from wye.catalog import CatalogError, load_catalog, parse_catalog

ROOT = Path(__file__).resolve().parents[2]
OWN = load_catalog(plugins=False)

ENTRY = """
[[system]]
slug = "one"
scale = "query"
title = "First"
entry = "json:dumps"
check = "json:loads"
status = "reproduced: 0.5 against 0.4"
"""


@pytest.mark.parametrize("system", OWN.systems, ids=lambda s: s.slug)
def test_every_system_and_its_check_can_be_loaded(system) -> None:  # type: ignore[no-untyped-def]
    assert callable(system.load())
    check = system.load_check()
    assert list(inspect.signature(check).parameters) == ["context"]
    assert system.seconds > 0


@pytest.mark.parametrize("system", OWN.systems, ids=lambda s: s.slug)
def test_every_paper_is_named_by_the_check_of_its_system(system) -> None:  # type: ignore[no-untyped-def]
    module = inspect.getmodule(system.load_check())
    assert system.arxiv in (module.__doc__ or "")


def test_every_check_of_the_tree_is_in_the_catalogue() -> None:
    folder = ROOT / "src" / "wye" / "checks"
    written = {
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in folder.glob("*/*.py")
        if re.search(r"^def check\(", path.read_text(), re.MULTILINE)
    }
    assert written <= {s.check.split(":")[0] for s in OWN.systems}


def test_every_extra_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {s.extra for s in OWN.systems if s.extra}
    assert extras <= set(project["optional-dependencies"])


def test_every_status_states_figures() -> None:
    for system in OWN.systems:
        if system.verdict != "not measured":
            assert re.search(r"\d\.\d", system.status), system.slug


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"one"', '"One Two"'), r"system 1 \(One Two\), field 'slug'"),
        (('"query"', '"quarry"'), r"system 1 \(one\), field 'scale'"),
        (('title = "First"', ""), r"field 'title': Field required"),
        (('"json:dumps"', '"json.dumps"'), r"field 'entry'.*module:name"),
        (('title = "First"', 'title = "First"\ncolour = "red"'), r"field 'colour'"),
        (('title = "First"', 'title = "First"\narxiv = "1234"'), r"field 'arxiv'.*2403.12031"),
        (('"reproduced: 0.5 against 0.4"', '"works"'), r"field 'status': expected one of"),
        (('check = "json:loads"', ""), r"needs a check"),
        (("[[system]]", "[[system]"), r"is not TOML"),
    ],
)
def test_a_wrong_entry_is_named_with_its_field(change: tuple[str, str], message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        parse_catalog(ENTRY.replace(*change))


def test_a_slug_that_stands_twice_is_an_error() -> None:
    with pytest.raises(CatalogError, match="stands twice"):
        parse_catalog(ENTRY + ENTRY)


def test_an_unknown_slug_or_scale_names_the_known_ones() -> None:
    catalog = parse_catalog(ENTRY)
    with pytest.raises(CatalogError, match="did you mean 'one'"):
        catalog.get("ones")
    with pytest.raises(
        CatalogError, match=r"no system has the scale 'depth'; there are \['query'\]"
    ):
        catalog.of_scale("depth")
    assert catalog.of_scale(None) is catalog


def test_a_missing_extra_is_named_when_the_system_is_loaded() -> None:
    text = ENTRY.replace("json:dumps", "no_such_module:Thing") + 'extra = "torch"\n'
    with pytest.raises(CatalogError, match=r"no_such_module.*pip install .wye\[torch\]"):
        parse_catalog(text).get("one").load()


def entry(name: str, value: str, group: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=group)


def test_a_plug_in_that_cannot_be_loaded_is_listed_with_the_reason_and_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = [
        entry("broken", "no_such_module:Router", "wye.routers"),
        entry("notcallable", "math:pi", "wye.policies"),
        entry("knn-routing", "json:dumps", "wye.routers"),
        entry("Bad Name", "json:dumps", "wye.routers"),
        entry("fine", "json:dumps", "wye.routers"),
        entry("fine", "json:loads", "wye.checks"),
    ]
    monkeypatch.setattr(
        catalog_module,
        "entry_points",
        lambda group: tuple(p for p in points if p.group == group),
    )
    catalog = load_catalog()
    problems = {p.name: p.problem for p in catalog.plugins}
    assert "No module named 'no_such_module'" in (problems["broken"] or "")
    assert "expected something to call" in (problems["notcallable"] or "")
    assert "wye itself has a system of that name" in (problems["knn-routing"] or "")
    assert "is not a slug" in (problems["Bad Name"] or "")
    assert problems["fine"] is None
    assert catalog.get("fine").check == "json:loads"
    assert {s.slug for s in catalog.systems} == {s.slug for s in OWN.systems} | {"fine"}
    with pytest.raises(CatalogError, match=r"broken.*no_such_module:Router.*cannot be used"):
        catalog.get("broken")
    screen = Console(file=StringIO(), width=200)
    screen.print(catalog)
    assert "no_such_module" in screen.file.getvalue()  # type: ignore[attr-defined]
    json.dumps(catalog.to_dict())
