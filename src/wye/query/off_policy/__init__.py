"""Off-policy evaluation: what another policy would have reached on traffic that was logged.

Arrays in, figures out. Judges a policy after the fact, on the outcomes of choices that another one
made with known probabilities:

- `Logged`: the choices and their probabilities, refused where they cannot be right;
- `ips`, `snips`, `doubly_robust`: estimates of the policy's value with intervals, `difference`: of
  its value less that of the logged policy;
- `cross_fitted_direct`: a direct method that no outcome judges itself by;
- `evaluate`: all of these, with the effective sample size and the share of traffic that the log can
  speak for; refuses where it cannot.

Written here and not taken from a package, since the intervals rest on the stored probabilities of
the choices that were not made (see `intervals`).
"""

from wye.query.off_policy.direct import cross_fitted_direct
from wye.query.off_policy.errors import OffPolicyError
from wye.query.off_policy.estimators import difference, doubly_robust, ips, snips
from wye.query.off_policy.evaluation import Evaluation, evaluate
from wye.query.off_policy.intervals import Estimated
from wye.query.off_policy.logged import Logged
from wye.query.off_policy.weights import effective_size, implied_size, supported_share

__all__ = [
    "Estimated",
    "Evaluation",
    "Logged",
    "OffPolicyError",
    "cross_fitted_direct",
    "difference",
    "doubly_robust",
    "effective_size",
    "evaluate",
    "implied_size",
    "ips",
    "snips",
    "supported_share",
]
