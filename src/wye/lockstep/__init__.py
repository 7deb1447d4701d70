"""Several language models in lock step, by token and by latent.

`base` holds the contract; `fusionroute` and `mixture_of_thoughts` are systems; the other files are
what they are made of. Needs PyTorch (the extra `torch`).

Names are resolved on first use, so that importing this room loads no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wye.lockstep.base import Follower as Follower
    from wye.lockstep.base import LockstepError as LockstepError
    from wye.lockstep.base import Member as Member
    from wye.lockstep.base import Reading as Reading
    from wye.lockstep.base import common_vocabulary as common_vocabulary
    from wye.lockstep.combine import choose_token as choose_token
    from wye.lockstep.combine import log_linear as log_linear
    from wye.lockstep.expert_records import ExpertRecord as ExpertRecord
    from wye.lockstep.expert_records import record_experts as record_experts
    from wye.lockstep.expert_records import routing_accuracy as routing_accuracy
    from wye.lockstep.expert_records import routing_loss as routing_loss
    from wye.lockstep.fusionroute import TokenFusion as TokenFusion
    from wye.lockstep.fusionroute_training import Preferences as Preferences
    from wye.lockstep.fusionroute_training import Texts as Texts
    from wye.lockstep.fusionroute_training import fit_cdpo as fit_cdpo
    from wye.lockstep.fusionroute_training import fit_sft as fit_sft
    from wye.lockstep.interaction import Interaction as Interaction
    from wye.lockstep.members import FunctionMember as FunctionMember
    from wye.lockstep.members import HuggingFaceMember as HuggingFaceMember
    from wye.lockstep.mixture_of_thoughts import MixtureOfThoughts as MixtureOfThoughts
    from wye.lockstep.mixture_of_thoughts import Thoughts as Thoughts
    from wye.lockstep.mixture_of_thoughts_training import Questions as Questions
    from wye.lockstep.mixture_of_thoughts_training import ThoughtWeights as ThoughtWeights
    from wye.lockstep.mixture_of_thoughts_training import fit_thoughts as fit_thoughts
    from wye.lockstep.mixture_of_thoughts_training import shared_questions as shared_questions
    from wye.lockstep.offsets import SharedText as SharedText
    from wye.lockstep.offsets import Tokens as Tokens
    from wye.lockstep.offsets import tokens_of as tokens_of
    from wye.lockstep.preference_loss import complemented_dpo as complemented_dpo
    from wye.lockstep.thought_decoding import generate_thoughts as generate_thoughts
    from wye.lockstep.thought_router import Roles as Roles
    from wye.lockstep.thought_router import ThoughtRouter as ThoughtRouter

_HOME = {
    "ExpertRecord": "expert_records",
    "Follower": "base",
    "FunctionMember": "members",
    "HuggingFaceMember": "members",
    "Interaction": "interaction",
    "LockstepError": "base",
    "Member": "base",
    "MixtureOfThoughts": "mixture_of_thoughts",
    "Preferences": "fusionroute_training",
    "Questions": "mixture_of_thoughts_training",
    "Reading": "base",
    "Roles": "thought_router",
    "SharedText": "offsets",
    "Texts": "fusionroute_training",
    "ThoughtRouter": "thought_router",
    "ThoughtWeights": "mixture_of_thoughts_training",
    "Thoughts": "mixture_of_thoughts",
    "TokenFusion": "fusionroute",
    "Tokens": "offsets",
    "choose_token": "combine",
    "common_vocabulary": "base",
    "complemented_dpo": "preference_loss",
    "fit_cdpo": "fusionroute_training",
    "fit_sft": "fusionroute_training",
    "fit_thoughts": "mixture_of_thoughts_training",
    "generate_thoughts": "thought_decoding",
    "log_linear": "combine",
    "record_experts": "expert_records",
    "routing_accuracy": "expert_records",
    "routing_loss": "expert_records",
    "shared_questions": "mixture_of_thoughts_training",
    "tokens_of": "offsets",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"wye.lockstep.{_HOME[name]}"), name)
    raise AttributeError(f"module 'wye.lockstep' has no attribute {name!r}; it has {sorted(_HOME)}")
