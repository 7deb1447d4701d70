"""A dense attention layer cut into its heads, which add up to it.

    attention(x) = sum_h softmax(x W_q^h (x W_k^g)^T scale) (x W_v^g) W_o^h + c,    g = group of h
so that head h with columns W_q^h and rows W_o^h is an expert, and all experts together are the
layer (Union of Experts, arXiv 2503.02495, section 3.1). With grouped keys and values, heads
h of one group share W_k^g and W_v^g.

Shape letters: H heads, G groups of keys and values, A width of a head, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from wye.moe.base import MoEError

_SEPARATE = ("q_proj", "k_proj", "v_proj", "o_proj")
_JOINT = ("input", "output", "n_heads")


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """Views on the weights of an attention layer, head by head; gradients flow to the layer.

    Attributes:
        query: `[H, A, D]`.
        key, value: `[G, A, D]`, G a divisor of H; head h uses group h G / H.
        output: `[H, D, A]`.
        query_bias: `[H, A]` or None; key_bias, value_bias: `[G, A]` or None.
        output_bias: `[D]` or None; belongs to the sum, not to any head.
        scale: of the scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    query_bias: Tensor | None
    key_bias: Tensor | None
    value_bias: Tensor | None
    output_bias: Tensor | None
    scale: float

    @property
    def n_heads(self) -> int:
        """H."""
        return int(self.query.shape[0])

    @property
    def n_groups(self) -> int:
        """G."""
        return int(self.key.shape[0])

    @property
    def head_width(self) -> int:
        """A."""
        return int(self.query.shape[1])

    @property
    def width(self) -> int:
        """D."""
        return int(self.query.shape[2])


def decompose_attention(module: nn.Module) -> HeadWeights:
    """The heads of an attention layer as views on its weights.

    It may hold linear layers `q_proj`, `k_proj`, `v_proj`, `o_proj` and say its `head_dim`, as the
    decoders of Hugging Face do, or `input` and `output` and its `n_heads`, as the attention of
    `wye.moe.LanguageModel` does.

    Args:
        module: left as it is; positions and masks are the business of whoever runs the heads.

    Raises:
        MoEError: another module, or one that normalises queries and keys, which no slice can know.
    """
    if all(isinstance(getattr(module, name, None), nn.Linear) for name in _SEPARATE):
        return _separate(module)
    if isinstance(getattr(module, "input", None), nn.Linear) and all(
        hasattr(module, name) for name in _JOINT
    ):
        return _joint(module)
    raise MoEError(
        f"{type(module).__name__} holds {[name for name, _ in module.named_children()]}: expected "
        f"linear layers {list(_SEPARATE)}, or input and output"
    )


def _separate(module: nn.Module) -> HeadWeights:
    q, k, v, o = (getattr(module, name) for name in _SEPARATE)
    width = getattr(module, "head_dim", None)
    if not isinstance(width, int) or q.out_features % width or k.out_features % width:
        raise MoEError(
            f"{type(module).__name__} has head_dim={width!r} with projections to {q.out_features} "
            f"and {k.out_features}, expected a divisor of both"
        )
    normalised = [name for name, _ in module.named_children() if name in ("q_norm", "k_norm")]
    if normalised:
        raise MoEError(
            f"{type(module).__name__} normalises its queries and keys ({normalised}), which heads "
            "cut out of its projections would leave out"
        )
    scale = getattr(module, "scaling", width**-0.5)
    return HeadWeights(
        _rows(q, width),
        _rows(k, width),
        _rows(v, width),
        _columns(o, width),
        _bias(q, width),
        _bias(k, width),
        _bias(v, width),
        o.bias,
        float(scale),
    )


def _joint(module: nn.Module) -> HeadWeights:
    joint, output, n_heads = (getattr(module, name) for name in _JOINT)
    if not isinstance(output, nn.Linear) or joint.out_features != 3 * output.in_features:
        raise MoEError(
            f"{type(module).__name__} needs a linear layer input to queries, keys and values and a "
            "linear layer output from as many values"
        )
    width = output.in_features // int(n_heads)
    q, k, v = joint.weight.view(3, -1, width, joint.in_features)
    bias = [None] * 3 if joint.bias is None else [*joint.bias.view(3, -1, width)]
    return HeadWeights(
        q, k, v, _columns(output, width), bias[0], bias[1], bias[2], output.bias, width**-0.5
    )


def _rows(linear: nn.Linear, width: int) -> Tensor:
    return linear.weight.view(-1, width, linear.in_features)


def _columns(linear: nn.Linear, width: int) -> Tensor:
    return linear.weight.view(linear.out_features, -1, width).transpose(0, 1)


def _bias(linear: nn.Linear, width: int) -> Tensor | None:
    return None if linear.bias is None else linear.bias.view(-1, width)
