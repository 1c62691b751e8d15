"""Qwen3: one forward pass, shared by the trainer and the engine.

The model knows its weights and the order of its operations, nothing else. Two arguments decide
all that varies:

- `attend(layer, qkv)`: QK-norm, RoPE, cache and attention of one layer; the object passed knows
  positions and segments.
- `linear(layer, name, x, residual)`: one merged projection together with the norm or the swiglu
  that precedes it, so `x` comes before that, and the residual stream that it is added to, if any;
  `layer` may be the head. Where a layer has experts it knows their two products, too.

Tokens of all segments are packed in one row: there is no batch axis and no padding.
Shapes: T tokens, H hidden_size, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from danlu.model.checkpointing import again
from danlu.model.config import ExpertsConfig, ModelConfig
from danlu.model.experts import Balance, Groups, route
from danlu.model.layout import PROJECTIONS, layout, merged_shape, num_experts
from danlu.model.recompute import Recompute
from danlu.ops import (
    QuantizedWeight,
    Stream,
    begin_linear,
    end_linear,
    expert_input_gradient,
    expert_linear,
    fused_linear,
    is_fused,
    look_up,
    norms_add,
    rms_norm,
    swiglu,
)


class Linear:
    """One merged projection with what precedes it: x [T, in] -> [T, out].

    residual: [T, out], added to the result. This one is for a model without adapter, and for
    full-parameter training.
    balance: what evens out the experts' shares in a batch that is trained on, if anything does.
    """

    balance: Balance | None = None

    def __call__(
        self, layer: Layer | Head, name: str, x: Tensor | Stream, residual: Tensor | None = None
    ) -> Tensor:
        if is_fused(x, getattr(layer, name)):
            return fused_product(layer, name, x, residual)
        return end_linear(*begin_product(layer, name, projection_input(layer, name, x), residual))

    def second_pass(self) -> Linear:
        """Return the `linear` for computing an MLP again, for its gradients.

        The value of its `down_proj` is not read.
        """
        return self

    def into_experts(self, layer: Layer, n: Tensor, groups: Groups) -> Tensor:
        """Multiply tokens with their experts' gate and up: n [T, H] -> [R, 2 moe_intermediate].

        n: behind the norm, which the router shares.
        """
        return self.by_experts(layer, "gate_up_proj", groups.rows(n), groups)

    def out_of_experts(
        self, layer: Layer, gate_up: Tensor, groups: Groups, weights: Tensor
    ) -> Tensor:
        """Multiply swiglu of rows with their experts' down, and mix: -> [T, H].

        gate_up: [R, 2 moe_intermediate]; weights: [T, K], of a token's experts.
        """
        return groups.mixed(self.by_experts(layer, "down_proj", swiglu(gate_up), groups), weights)

    def by_experts(self, layer: Layer, name: str, x: Tensor, groups: Groups) -> Tensor:
        """Multiply the rows of experts, x [R, in], each with its expert's matrix: -> [R, out]."""
        return expert_product(layer, name, x, groups)


plain_linear = Linear()
# QK-norm, RoPE and attention of one layer: qkv [T, q + 2 kv] -> [T, q].
Attend = Callable[["Layer", Tensor], Tensor]


def empty_weight(*shape: int, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    """An uninitialised frozen weight; training decides what requires gradients."""
    return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype), requires_grad=False)


class Layer(nn.Module):
    """One decoder layer: attention and MLP, each added to the residual stream x [T, H]."""

    def __init__(
        self, config: ModelConfig, index: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.config = config
        self.index = index
        hidden, head_dim = config.hidden_size, config.head_dim
        self.input_layernorm = empty_weight(hidden, device=device, dtype=dtype)
        self.q_norm = empty_weight(head_dim, device=device, dtype=dtype)
        self.k_norm = empty_weight(head_dim, device=device, dtype=dtype)
        self.post_attention_layernorm = empty_weight(hidden, device=device, dtype=dtype)
        for name in PROJECTIONS:
            out, in_features = merged_shape(config, name, index)
            rows = out * (num_experts(config, name, index) or 1)
            weight = empty_weight(rows, in_features, device=device, dtype=dtype)
            self.register_parameter(name, weight)

    def attention(self, x: Tensor, attend: Attend, linear: Linear) -> Tensor:  # x: [T, H]
        """Add the attention half."""
        return linear(self, "o_proj", attend(self, linear(self, "qkv_proj", x)), x)

    def mlp(self, x: Tensor, linear: Linear) -> Tensor:  # x: [T, H]
        """Add the MLP half."""
        return linear(self, "down_proj", linear(self, "gate_up_proj", x), x)

    def mlp_of_pass(self) -> Callable[[Tensor, Linear], Tensor]:
        """Return what adds the MLP half in one forward pass, and again in its backward pass."""
        return self.mlp

    def answer(self, stream: Stream, attend: Attend, linear: Linear) -> None:
        """Add both halves to the stream, for devices whose norms add."""
        stream.add(linear(self, "o_proj", attend(self, linear(self, "qkv_proj", stream))))
        stream.add(linear(self, "down_proj", linear(self, "gate_up_proj", stream)))

    def forward(
        self, x: Tensor | Stream, attend: Attend, linear: Linear, recompute: Recompute = "none"
    ) -> Tensor | Stream:  # x: [T, H]
        # Called as a module in both cases: so divided weights are gathered first.
        if isinstance(x, Stream):
            self.answer(x, attend, linear)
            return x
        mlp = self.mlp_of_pass()
        if recompute == "none":
            return mlp(self.attention(x, attend, linear), linear)
        second = linear.second_pass()
        if recompute in ("block", "offload"):
            return again(
                lambda x, is_second: mlp(
                    self.attention(x, attend, linear), second if is_second else linear
                ),
                x,
                on_host=recompute == "offload",
            )
        x = self.attention(
            x, lambda layer, qkv: again(lambda qkv, _is_second: attend(layer, qkv), qkv), linear
        )
        if recompute == "gate_up":
            return again(lambda x, is_second: mlp(x, second if is_second else linear), x)
        return mlp(x, linear)


class ExpertLayer(Layer):
    """A decoder layer with experts in the MLP's place: see `model.experts`.

    Their matrices stand below each other in `gate_up_proj` and `down_proj`.
    """

    def __init__(
        self,
        config: ModelConfig,
        index: int,
        experts: ExpertsConfig,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(config, index, device, dtype)
        self.experts = experts
        self.router = empty_weight(
            experts.num_experts, config.hidden_size, device=device, dtype=dtype
        )

    def mlp(self, x: Tensor, linear: Linear) -> Tensor:  # x: [T, H]
        """Add what the experts make of each token."""
        return self.mlp_of_pass()(x, linear)

    def mlp_of_pass(self) -> Callable[[Tensor, Linear], Tensor]:
        """Return what adds the experts' half; computed again, it takes the experts it took."""
        taken: Groups | None = None

        def mlp(x: Tensor, linear: Linear) -> Tensor:
            nonlocal taken
            made, taken = self._made(projection_input(self, "gate_up_proj", x), linear, taken)
            return x + made

        return mlp

    def answer(self, stream: Stream, attend: Attend, linear: Linear) -> None:
        """Add both halves to the stream, for devices whose norms add."""
        stream.add(linear(self, "o_proj", attend(self, linear(self, "qkv_proj", stream))))
        n = projection_input(self, "gate_up_proj", stream)
        stream.add(self._made(n, linear, None)[0])

    def _made(self, n: Tensor, linear: Linear, taken: Groups | None) -> tuple[Tensor, Groups]:
        """Return what experts make of n [T, H], and which did."""
        groups, weights = route(n, self.router, self.experts, taken, linear.balance)
        pieces = [] if torch.is_grad_enabled() else groups.pieces(n.shape[1])
        if len(pieces) < 2:
            gate_up = linear.into_experts(self, n, groups)
            return linear.out_of_experts(self, gate_up, groups, weights), groups
        made = n.new_empty(len(groups.tokens), n.shape[1])
        for rows, piece in pieces:
            gate_up = linear.into_experts(self, n, piece)
            made[rows] = linear.out_of_experts(self, gate_up, piece, weights)
        return groups.mixed(made, weights), groups


def new_layer(config: ModelConfig, index: int, device: torch.device, dtype: torch.dtype) -> Layer:
    """Build a layer, uninitialised, dense or with experts as the config has it."""
    experts = config.experts_of(index)
    if experts is None:
        return Layer(config, index, device, dtype)
    return ExpertLayer(config, index, experts, device, dtype)


class Head(nn.Module):
    """Final norm and output matrix; with tied embeddings the matrix is the embedding itself."""

    def __init__(self, config: ModelConfig, norm: nn.Parameter, lm_head: nn.Parameter) -> None:
        super().__init__()
        self.config = config
        self.norm = norm
        self.lm_head = lm_head


class Qwen3(nn.Module):
    """The whole model. Weights are uninitialised until `hf_tensors` has been filled."""

    def __init__(self, config: ModelConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        vocab, hidden = config.vocab_size, config.hidden_size
        self.embed_tokens = empty_weight(vocab, hidden, device=device, dtype=dtype)
        self.layers = nn.ModuleList(
            new_layer(config, index, device, dtype) for index in range(config.num_hidden_layers)
        )
        lm_head = self.embed_tokens
        if not config.tie_word_embeddings:
            lm_head = empty_weight(vocab, hidden, device=device, dtype=dtype)
        self.head = Head(config, empty_weight(hidden, device=device, dtype=dtype), lm_head)

    def forward(
        self, tokens: Tensor, attend: Attend, linear: Linear, recompute: Recompute = "none"
    ) -> Tensor:
        """Return the last residual stream [T, H] of packed tokens [T]; the head comes next.

        recompute: what the backward pass computes again instead of finding it kept.
        """
        x = look_up(self.embed_tokens, tokens)
        if norms_add(x.device) and not torch.is_grad_enabled():
            stream = Stream(x)
            for layer in self.layers:
                layer(stream, attend, linear)
            return stream.total()
        for layer in self.layers:
            x = layer(x, attend, linear, recompute)
        return x

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.head.norm.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.head.norm.dtype

    def hf_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every Hugging Face tensor as a view of our storage: fill, read or save these."""
        for name, pieces in layout(self.config).items():
            parameter = self.get_parameter(name).detach()
            for piece in pieces:
                yield piece.hf_name, parameter[piece.start : piece.start + piece.shape[0]]


_NORM_BEFORE = {
    "qkv_proj": "input_layernorm",
    "gate_up_proj": "post_attention_layernorm",
    "lm_head": "norm",
}


def norm_before(layer: Layer | Head, name: str) -> Tensor | None:
    """Return the weight [in] of the norm that precedes a projection, None where none does."""
    norm = _NORM_BEFORE.get(name)
    return getattr(layer, norm) if norm else None


def projection_input(layer: Layer | Head, name: str, x: Tensor | Stream) -> Tensor:
    """Apply what precedes a projection: its norm, or swiglu before `down_proj`. x: [T, ...]."""
    norm = norm_before(layer, name)
    if isinstance(x, Stream):
        assert norm is not None
        return x.normed(norm, layer.config.rms_norm_eps)
    if name == "down_proj":
        return swiglu(x)
    return x if norm is None else rms_norm(x, norm, layer.config.rms_norm_eps)


def fused_product(
    layer: Layer | Head,
    name: str,
    x: Tensor,
    residual: Tensor | None,
    pair: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Compute a projection at once; `ops.fused_linear` says what `pair` is."""
    return fused_linear(
        x,
        getattr(layer, name),
        norm=norm_before(layer, name),
        eps=layer.config.rms_norm_eps,
        gated=name == "down_proj",
        residual=residual,
        pair=pair,
    )


def begin_product(
    layer: Layer | Head, name: str, n: Tensor, residual: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Multiply n [T, in] with the weight -> [T, out]: a matrix, or what stands in its place.

    Returns the product and what of the residual `end_linear` is still to add.
    """
    weight = getattr(layer, name)
    if isinstance(weight, Tensor):
        return begin_linear(n, weight, residual)
    if isinstance(weight, QuantizedWeight):
        return weight.begin(n, residual)
    return weight(n), residual


def product_gradient(layer: Layer, name: str, dy: Tensor) -> Tensor:
    """Return the gradient [T, in] of what a frozen projection multiplied, from its product's."""
    weight = getattr(layer, name)
    gradient: Tensor = dy @ weight if isinstance(weight, Tensor) else weight.gradient(dy)
    return gradient


def expert_product(layer: Layer, name: str, rows: Tensor, groups: Groups) -> Tensor:
    """Multiply rows [R, in] with their experts' matrices -> [R, out]."""
    weight = getattr(layer, name)
    if isinstance(weight, Tensor):
        return expert_linear(rows, weight, groups.ends)
    product: Tensor = weight.by_expert(rows, groups.ends)
    return product


def expert_product_gradient(layer: Layer, name: str, dy: Tensor, groups: Groups) -> Tensor:
    """Return the gradient [R, in] of rows, from that of their product with frozen matrices."""
    weight = getattr(layer, name)
    if isinstance(weight, Tensor):
        return expert_input_gradient(dy, weight, groups.ends)
    gradient: Tensor = weight.expert_gradient(dy, groups.ends)
    return gradient


def replace_weight(
    owner: nn.Module, name: str, weight: nn.Parameter | Callable[[Tensor], Tensor]
) -> None:
    """Replace a weight by another one, or by a function or module that multiplies."""
    delattr(owner, name)  # torch puts nothing else over a parameter
    setattr(owner, name, weight)
