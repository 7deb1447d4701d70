"""The algebra of routing on any array: plans, selections, balance, budgets, objectives, measures.

NumPy and PyTorch arrays alike (array API standard). Imports no PyTorch and does no I/O.
"""

from wye.core.arrays import SelectionError
from wye.core.audit import AuditChain, AuditError, AuditLog, AuditRecord, find_break, verify
from wye.core.capacity import capped, places
from wye.core.cusum import Cusum
from wye.core.dual_price import DualPrice
from wye.core.estimators import gumbel_noise, gumbel_softmax, straight_through
from wye.core.lse_merge import merge_partial, merge_partials
from wye.core.measures import (
    agreement,
    divergence,
    drift,
    load_entropy,
    load_variation,
    max_violation,
    retained_score,
    starved_share,
)
from wye.core.objectives import (
    contrastive,
    entropy,
    load_balance,
    row_entropy,
    squared_variation,
    symmetric_divergence,
    z_loss,
)
from wye.core.online_prices import (
    effective_count,
    fold,
    histogram_prices,
    left_values,
    window_prices,
)
from wye.core.plan import Groups, Plan, PlanError
from wye.core.policy_gradient import leave_one_out_advantage, leave_one_out_loss
from wye.core.selection.assignment import assignment
from wye.core.selection.balanced import balanced, dual_bound, dual_prices
from wye.core.selection.expert_choice import expert_choice
from wye.core.selection.hashed import balanced_table, hashed
from wye.core.selection.makespan import MakespanSolution, makespan, solve_makespan
from wye.core.selection.sample import log_probability, sample
from wye.core.selection.sinkhorn import Potentials, sinkhorn, transport, transport_potentials
from wye.core.selection.threshold import threshold
from wye.core.selection.top_k import top_k
from wye.core.selection.top_p import top_p
from wye.core.selection.uniform import uniform
from wye.core.selection.within_budget import BudgetSolution, solve_budget, within_budget
from wye.core.smoothing import entropy_bounds, row_stochastic, smoothed
from wye.core.traces import PlanTrace
from wye.core.weights import shared, softmaxed, weigh

__all__ = [
    "AuditChain",
    "AuditError",
    "AuditLog",
    "AuditRecord",
    "BudgetSolution",
    "Cusum",
    "DualPrice",
    "Groups",
    "MakespanSolution",
    "Plan",
    "PlanError",
    "PlanTrace",
    "Potentials",
    "SelectionError",
    "agreement",
    "assignment",
    "balanced",
    "balanced_table",
    "capped",
    "contrastive",
    "divergence",
    "drift",
    "dual_bound",
    "dual_prices",
    "effective_count",
    "entropy",
    "entropy_bounds",
    "expert_choice",
    "find_break",
    "fold",
    "gumbel_noise",
    "gumbel_softmax",
    "hashed",
    "histogram_prices",
    "leave_one_out_advantage",
    "leave_one_out_loss",
    "left_values",
    "load_balance",
    "load_entropy",
    "load_variation",
    "log_probability",
    "makespan",
    "max_violation",
    "merge_partial",
    "merge_partials",
    "places",
    "retained_score",
    "row_entropy",
    "row_stochastic",
    "sample",
    "shared",
    "sinkhorn",
    "smoothed",
    "softmaxed",
    "solve_budget",
    "solve_makespan",
    "squared_variation",
    "starved_share",
    "straight_through",
    "symmetric_divergence",
    "threshold",
    "top_k",
    "top_p",
    "transport",
    "transport_potentials",
    "uniform",
    "verify",
    "weigh",
    "window_prices",
    "within_budget",
    "z_loss",
]
