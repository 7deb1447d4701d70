"""Instruction adherence: which kinds of instruction a model follows, by probes checked by program.

Twenty short probes in five categories, each built anew from a seed, fill a table of models x
skills. The table says whether an endpoint works at all, what it breaks, and whether it has changed;
and it routes requests to models that can follow what is asked (`CapabilityRouter`). Source: Young,
Gillins and Matthews, When Models Can't Follow: Testing Instruction Adherence Across 256 LLMs, arXiv
2510.18892.

The categories and the protocol (one factual question, then single-turn prompts, one binary check
each) are the authors'; the probes, four in each category, are ours, since theirs could not be read,
and so are the Beta table, the prior and the test for drift. A table of small runs says nothing of
models that it did not probe.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.query.instruction_adherence.change import drift as drift
    from wye.query.instruction_adherence.probe import CATEGORIES as CATEGORIES
    from wye.query.instruction_adherence.probe import Probe as Probe
    from wye.query.instruction_adherence.probe import Verdict as Verdict
    from wye.query.instruction_adherence.probing import ProbeRun as ProbeRun
    from wye.query.instruction_adherence.probing import check_alive as check_alive
    from wye.query.instruction_adherence.probing import run_probes as run_probes
    from wye.query.instruction_adherence.router import CapabilityRouter as CapabilityRouter
    from wye.query.instruction_adherence.skills import skills_of as skills_of
    from wye.query.instruction_adherence.suite import probes as probes
    from wye.query.instruction_adherence.table import CapabilityTable as CapabilityTable

_HOME = {
    "CATEGORIES": "probe",
    "CapabilityRouter": "router",
    "CapabilityTable": "table",
    "Probe": "probe",
    "ProbeRun": "probing",
    "Verdict": "probe",
    "check_alive": "probing",
    "drift": "change",
    "probes": "suite",
    "run_probes": "probing",
    "skills_of": "skills",
}

__all__ = [
    "CATEGORIES",
    "CapabilityRouter",
    "CapabilityTable",
    "Probe",
    "ProbeRun",
    "Verdict",
    "check_alive",
    "drift",
    "probes",
    "run_probes",
    "skills_of",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        home = import_module(f"wye.query.instruction_adherence.{_HOME[name]}")
        return getattr(home, name)
    raise AttributeError(
        f"module 'wye.query.instruction_adherence' has no attribute {name!r}; it has {__all__}"
    )
