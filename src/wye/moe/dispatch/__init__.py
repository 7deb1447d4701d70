"""Execution of a plan over experts, apart from routing.

`run_experts` takes a plan and stacked weights, `run_modules` a plan and any modules. The paths are
one file each: `segments` (expert by expert, hand-written backward), `grouped` (one grouped matrix
product, for accelerators), `gathered` (a few tokens), `capacity` (padded groups) and
`dense` (the oracle); `cost` chooses among them.
"""

from wye.moe.dispatch.modules import run_modules
from wye.moe.dispatch.run import Method, run_experts

__all__ = ["Method", "run_experts", "run_modules"]
