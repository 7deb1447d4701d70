"""The catalogue: every system in the tree, and those that third parties add by entry points.

A system is one published method under the name its authors gave it. `catalog.toml` says where it
is, what checks it and what came out. Packages add routers, policies, upstreams and checks under the
groups `wye.routers`, `wye.policies`, `wye.upstreams` and `wye.checks`; a plug-in that cannot be
loaded is listed with the reason, and using it is an error.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable
from importlib import import_module, resources
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from wye.errors import WyeError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

GROUPS = ("wye.routers", "wye.policies", "wye.upstreams", "wye.checks")
Scale = Literal[
    "query", "agent", "adapter", "expert", "depth", "attention", "mask", "placement", "graph"
]
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_VERDICTS = ("reproduced", "partly reproduced", "not reproduced at this scale", "not measured")
_STATUS = re.compile(rf"({'|'.join(_VERDICTS)}): .+", re.DOTALL)


class CatalogError(WyeError):
    """The catalogue or one of its plug-ins is not usable; the message names the entry."""


class System(BaseModel):
    """One system.

    Attributes:
        slug: its name on the command line.
        scale: what it routes.
        title: what it does and how, in one line.
        arxiv: number of the paper; empty for classics and third parties.
        entry: `module:Name` of the implementation.
        extra: extra of the package that it needs; empty for none.
        check: `module:function` of its check; empty where a third party gives none.
        seconds: how long the check takes on two cores, about.
        status: `reproduced`, `partly reproduced` or `not reproduced at this scale`, a colon, and
            the measured figures; or `not measured` and why; for a third party's, where it comes
            from.
        when, reads, how: the frame of a routing system (arXiv 2603.04445): when it decides, on what
            information (separated by commas), by which means; empty where the frame says nothing.
        package: distribution that adds it; empty for wye itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    slug: str
    scale: Scale
    title: str
    arxiv: str = ""
    entry: str
    extra: str = ""
    check: str = ""
    seconds: float = 0.0
    status: str
    when: str = ""
    reads: str = ""
    how: str = ""
    package: str = ""

    @field_validator("slug")
    @classmethod
    def _check_slug(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9]+([-_.][a-z0-9]+)*", value):
            raise ValueError(f"{value!r} is not a slug: lower-case words joined by hyphens")
        return value

    @field_validator("arxiv")
    @classmethod
    def _check_arxiv(cls, value: str) -> str:
        if value and not re.fullmatch(r"\d{4}\.\d{4,5}", value):
            raise ValueError(f"{value!r} is not an arXiv number such as 2403.12031")
        return value

    @field_validator("entry", "check")
    @classmethod
    def _check_reference(cls, value: str) -> str:
        if value and not _REFERENCE.fullmatch(value):
            raise ValueError(f"{value!r} is not of the form module:name")
        return value

    @property
    def verdict(self) -> str:
        """The status without its figures."""
        return self.status.partition(":")[0]

    def load(self) -> Any:
        """The implementation.

        Raises:
            CatalogError: it cannot be imported, for instance because `extra` is not installed.
        """
        return _load(self.entry, self.slug, self.extra)

    def load_check(self) -> Callable[..., Any]:
        """The check.

        Raises:
            CatalogError: there is none, or it cannot be imported.
        """
        if not self.check:
            raise CatalogError(
                f"{self.slug} has no check; {self.package or 'wye'} can add one under the entry "
                f"point group wye.checks with the name {self.slug!r}"
            )
        check: Callable[..., Any] = _load(self.check, self.slug, self.extra)
        return check


class Plugin(BaseModel):
    """One entry point of another package, and why it cannot be used if it cannot."""

    model_config = ConfigDict(frozen=True)

    group: str
    name: str
    value: str
    package: str
    problem: str | None = None


class Catalog(BaseModel):
    """All systems, ours and third parties', and all plug-ins."""

    model_config = ConfigDict(frozen=True)

    systems: tuple[System, ...]
    plugins: tuple[Plugin, ...] = ()

    def of_scale(self, scale: str | None) -> Catalog:
        """The systems of one scale; all of them for None.

        Raises:
            CatalogError: no system has that scale.
        """
        if scale is None:
            return self
        found = tuple(s for s in self.systems if s.scale == scale)
        if not found:
            known = sorted({s.scale for s in self.systems})
            raise CatalogError(f"no system has the scale {scale!r}; there are {known}")
        return Catalog(systems=found, plugins=self.plugins)

    def get(self, slug: str) -> System:
        """The system called `slug`.

        Raises:
            CatalogError: there is none, or the plug-in that would add it cannot be loaded.
        """
        for system in self.systems:
            if system.slug == slug:
                return system
        for plugin in self.plugins:
            if plugin.name == slug and plugin.problem:
                raise CatalogError(f"{slug}: {plugin.problem}")
        slugs = [s.slug for s in self.systems]
        close = difflib.get_close_matches(slug, slugs, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise CatalogError(
            f"no system is called {slug!r}{hint}; `wye systems` lists all {len(slugs)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable form."""
        return self.model_dump(mode="json")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.table import Table

        table = Table("system", "scale", "what", "paper", "outcome", box=None, pad_edge=False)
        for s in self.systems:
            paper = f"arXiv {s.arxiv}" if s.arxiv else ""
            table.add_row(s.slug, s.scale, escape(s.title), paper, escape(s.verdict))
        yield table
        broken = [p for p in self.plugins if p.problem]
        if broken:
            yield "\n[bold]plug-ins that cannot be used[/]"
            yield from (f"  {escape(p.problem or '')}" for p in broken)


def load_catalog(*, plugins: bool = True) -> Catalog:
    """The catalogue of this installation.

    Args:
        plugins: also list what other packages add.

    Raises:
        CatalogError: `catalog.toml` is not right; the entry and the field are named.

    Example:
        >>> load_catalog(plugins=False).get("knn-routing").scale
        'query'
    """
    text = (resources.files("wye") / "catalog.toml").read_text(encoding="utf-8")
    own = parse_catalog(text)
    if not plugins:
        return own
    found = [
        (group, point) for group in GROUPS for point in sorted(entry_points(group=group), key=_key)
    ]
    return _merged(own, found)


def parse_catalog(text: str, source: str = "catalog.toml") -> Catalog:
    """The systems of a catalogue file, `[[system]]` tables.

    Raises:
        CatalogError: not TOML, a field is wrong, the status has no figures, or a slug stands twice.
    """
    try:
        tables = tomllib.loads(text).get("system", [])
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"{source} is not TOML: {error}") from error
    systems: list[System] = []
    for number, table in enumerate(tables, start=1):
        place = f"{source}, system {number} ({table.get('slug', 'without slug')})"
        try:
            system = System.model_validate(table)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise CatalogError(f"{place}, field {field!r}: {first['msg']}") from error
        if not _STATUS.fullmatch(system.status):
            raise CatalogError(
                f"{place}, field 'status': expected one of {list(_VERDICTS)}, a colon and the "
                f"figures or the reason, got {system.status!r}"
            )
        if not system.check:
            raise CatalogError(f"{place}: a system of wye needs a check")
        if any(s.slug == system.slug for s in systems):
            raise CatalogError(f"{place}: the slug stands twice")
        systems.append(system)
    return Catalog(systems=tuple(systems))


def _key(point: EntryPoint) -> tuple[str, str]:
    return point.name, point.value


def _merged(own: Catalog, found: Iterable[tuple[str, EntryPoint]]) -> Catalog:
    plugins: list[Plugin] = []
    loaded: dict[tuple[str, str], tuple[EntryPoint, Any]] = {}
    for group, point in found:
        target, problem = _try_load(group, point)
        if problem is None and (group, point.name) in loaded:
            problem = _problem(group, point, "another package adds the same name; remove one")
        if problem is None and any(s.slug == point.name for s in own.systems):
            problem = _problem(group, point, "wye itself has a system of that name; rename it")
        if problem is None:
            loaded[group, point.name] = point, target
        plugins.append(
            Plugin(
                group=group,
                name=point.name,
                value=point.value,
                package=_package(point),
                problem=problem,
            )
        )
    checks = {name: point for (group, name), (point, _) in loaded.items() if group == "wye.checks"}
    systems = list(own.systems)
    for (group, name), (point, target) in loaded.items():
        # An upstream carries a request; it is no method of routing.
        if group != "wye.upstreams" and all(s.slug != name for s in systems):
            try:
                systems.append(_third_party(name, point, target, checks.get(name)))
            except ValidationError as error:
                at = next(i for i, p in enumerate(plugins) if p.name == name)
                reason = str(error.errors()[0]["msg"])
                plugins[at] = plugins[at].model_copy(
                    update={"problem": _problem(plugins[at].group, point, reason)}
                )
    return Catalog(systems=tuple(systems), plugins=tuple(plugins))


def _try_load(group: str, point: EntryPoint) -> tuple[Any, str | None]:
    try:
        target = point.load()
    except Exception as error:  # noqa: BLE001 - a plug-in can raise anything; it is reported
        return None, _problem(group, point, f"{type(error).__name__}: {error}")
    if not callable(target):
        return None, _problem(group, point, f"it is {target!r}, expected something to call")
    return target, None


def _problem(group: str, point: EntryPoint, reason: str) -> str:
    return (
        f"plug-in {point.name!r} of {_package(point)} (group {group}, {point.value}) cannot be "
        f"used: {reason}"
    )


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def _third_party(name: str, point: EntryPoint, target: Any, check: EntryPoint | None) -> System:
    lines = (getattr(target, "__doc__", None) or "").strip().splitlines()
    return System(
        slug=name,
        scale="query",
        title=lines[0] if lines else point.value,
        entry=point.value,
        check=check.value if check else "",
        status=f"added by {_package(point)}",
        package=_package(point),
    )


def _load(reference: str, slug: str, extra: str) -> Any:
    module, _, name = reference.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        fix = f'; install it with: pip install "wye[{extra}]"' if extra else ""
        raise CatalogError(f"{slug}: {reference} cannot be loaded: {error}{fix}") from error
