"""What routing looks like: load, sparsity, specialisation, and how it changes.

The functions work on plans and traces of any router; `report_model` on a live model. Names are
resolved on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.moe.diagnostics.changes import RoutingChange as RoutingChange
    from wye.moe.diagnostics.changes import routing_change as routing_change
    from wye.moe.diagnostics.choices import first_choice as first_choice
    from wye.moe.diagnostics.choices import joined as joined
    from wye.moe.diagnostics.domains import Specialisation as Specialisation
    from wye.moe.diagnostics.domains import domain_specialisation as domain_specialisation
    from wye.moe.diagnostics.drops import DropsByPosition as DropsByPosition
    from wye.moe.diagnostics.drops import drops_by_position as drops_by_position
    from wye.moe.diagnostics.heat_map import heat_map as heat_map
    from wye.moe.diagnostics.heat_map import save_heat_map as save_heat_map
    from wye.moe.diagnostics.information import Information as Information
    from wye.moe.diagnostics.information import between_layers as between_layers
    from wye.moe.diagnostics.information import mutual_information as mutual_information
    from wye.moe.diagnostics.report import LayerReport as LayerReport
    from wye.moe.diagnostics.report import Report as Report
    from wye.moe.diagnostics.report import report_loads as report_loads
    from wye.moe.diagnostics.report import report_model as report_model
    from wye.moe.diagnostics.report import report_trace as report_trace
    from wye.moe.diagnostics.saved import SavedRouters as SavedRouters
    from wye.moe.diagnostics.saved import inspect_saved as inspect_saved
    from wye.moe.diagnostics.sparsity import FanOut as FanOut
    from wye.moe.diagnostics.sparsity import alive_experts as alive_experts
    from wye.moe.diagnostics.sparsity import chunk_sparsity as chunk_sparsity
    from wye.moe.diagnostics.sparsity import fan_out as fan_out
    from wye.moe.diagnostics.sparsity import token_sparsity as token_sparsity
    from wye.moe.diagnostics.tokens import TokenIdentity as TokenIdentity
    from wye.moe.diagnostics.tokens import token_identity as token_identity

_HOME = {
    "DropsByPosition": "drops",
    "FanOut": "sparsity",
    "Information": "information",
    "LayerReport": "report",
    "Report": "report",
    "RoutingChange": "changes",
    "SavedRouters": "saved",
    "Specialisation": "domains",
    "TokenIdentity": "tokens",
    "alive_experts": "sparsity",
    "between_layers": "information",
    "chunk_sparsity": "sparsity",
    "domain_specialisation": "domains",
    "drops_by_position": "drops",
    "fan_out": "sparsity",
    "first_choice": "choices",
    "heat_map": "heat_map",
    "inspect_saved": "saved",
    "joined": "choices",
    "mutual_information": "information",
    "report_loads": "report",
    "report_model": "report",
    "report_trace": "report",
    "routing_change": "changes",
    "save_heat_map": "heat_map",
    "token_identity": "tokens",
    "token_sparsity": "sparsity",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {__all__}")
