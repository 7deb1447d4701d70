"""Policies by name and by a short spec, third parties' included (entry point group `wye.policies`).

A spec is a name with parameters, `utility:cost_weight=50,latency_weight=0.1`. A policy around
another takes it as `inner=`, last, and the rest of the spec is the inner one:
`explore:epsilon=0.05,inner=utility:cost_weight=50`.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.metadata import entry_points

from wye.query.policy import Policy, PolicyError, parameter_names

BUILT_IN = {
    "quality": "wye.query.policies.quality:Quality",
    "utility": "wye.query.policies.utility:Utility",
    "budget": "wye.query.policies.budget:Budget",
    "optimal-routing": "wye.query.policies.optimal_routing:OptimalRouting",
    "threshold": "wye.query.policies.threshold:Threshold",
    "abstain": "wye.query.policies.abstain:Abstain",
    "cascade": "wye.query.policies.cascade:Cascade",
    "match": "wye.query.policies.match:CheapestMatch",
    "explore": "wye.query.policies.explore:Explore",
}
GROUP = "wye.policies"

Parameter = float | int | bool | str | None | Policy


def policy_names() -> list[str]:
    """Every name that `get_policy` knows: the built-in ones, then third parties'."""
    return [*BUILT_IN, *sorted({e.name for e in entry_points(group=GROUP)} - set(BUILT_IN))]


def get_policy(name: str, **params: Parameter) -> Policy:
    """The policy called `name`, built with `params`.

    Raises:
        PolicyError: an unknown name (the message lists the known ones) or parameter, or a value
            that the policy refuses.

    Example:
        >>> get_policy("utility", cost_weight=50).describe()
        'utility(cost_weight=50.0, latency_weight=0.0)'
    """
    made = _policy_class(name)
    known = list(parameter_names(made))
    for given in params:
        if given not in known:
            raise PolicyError(
                f"policy {name} has no parameter {given!r}{_hint(given, known)}; "
                f"it takes {', '.join(known) if known else 'none'}"
            )
    inner = params.get("inner")
    if isinstance(inner, str):
        params["inner"] = parse_policy(inner)
    elif not isinstance(inner, Policy | None):
        raise PolicyError(
            f"policy {name}: inner={inner!r:.60}, expected a policy, as in "
            'inner = "utility:cost_weight=50"'
        )
    try:
        return made(**params)
    except (TypeError, ArithmeticError) as error:
        raise PolicyError(f"policy {name}: {error}; it takes {', '.join(known)}") from error


def parse_policy(spec: str) -> Policy:
    """The policy that a spec describes.

    Raises:
        PolicyError: a part that is not `name=value`, or as `get_policy` raises.

    Example:
        >>> parse_policy("explore:epsilon=0.1,inner=utility:cost_weight=50").describe()
        'explore(inner=utility(cost_weight=50.0, latency_weight=0.0), epsilon=0.1)'
    """
    name, _, rest = spec.strip().partition(":")
    before, has_inner, inner = _split_inner(rest)
    params: dict[str, Parameter] = {}
    for part in filter(None, (p.strip() for p in before.split(","))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise PolicyError(
                f"policy {spec!r}: {part!r} is not name=value; write it as in "
                "utility:cost_weight=50,latency_weight=0.1"
            )
        params[key.strip()] = _value(value.strip())
    if has_inner:
        params["inner"] = parse_policy(inner)
    return get_policy(name.strip(), **params)


def _split_inner(rest: str) -> tuple[str, bool, str]:
    if rest.startswith("inner="):
        return "", True, rest.removeprefix("inner=")
    before, found, inner = rest.partition(",inner=")
    return before, bool(found), inner


def _value(text: str) -> Parameter:
    named: dict[str, Parameter] = {"none": None, "true": True, "false": False}
    if text.lower() in named:
        return named[text.lower()]
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _policy_class(name: str) -> type[Policy]:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found = getattr(import_module(module), attribute)
    else:
        matching = [e for e in entry_points(group=GROUP) if e.name == name]
        if not matching:
            names = policy_names()
            raise PolicyError(
                f"unknown policy {name!r}{_hint(name, names)}; known: {', '.join(names)}"
            )
        found = matching[0].load()
    if not (isinstance(found, type) and issubclass(found, Policy)):
        raise PolicyError(
            f"policy {name} is {found!r}, expected a subclass of wye.query.policy.Policy"
        )
    return found


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
