"""The algebra of routing on any array: plans, selections, balance, budgets, objectives, measures.

NumPy and PyTorch arrays alike (array API standard). Imports no PyTorch and does no I/O.
"""

from wye.core.arrays import SelectionError
from wye.core.dual_price import DualPrice
from wye.core.plan import Groups, Plan, PlanError
from wye.core.selection.top_k import top_k
from wye.core.selection.within_budget import BudgetSolution, solve_budget, within_budget

__all__ = [
    "BudgetSolution",
    "DualPrice",
    "Groups",
    "Plan",
    "PlanError",
    "SelectionError",
    "solve_budget",
    "top_k",
    "within_budget",
]
