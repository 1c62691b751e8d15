"""Which experts compute which tokens: the router's choice, and rows in the experts' order.

A token goes to the K experts that are likeliest by a softmax, in fp32, over the logits of all; what
they make of it is added up, weighted by their probabilities (Qwen3-MoE, transformers'
`Qwen3MoeSparseMoeBlock`, whose order these operations have). Rows of one expert stand side by
side, so that all experts multiply by one call.
Shapes: T tokens, H hidden_size, E experts, K experts of a token, R = T K rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.model.config import ExpertsConfig
from danlu.ops import expert_ends, expert_mix, expert_pieces


@dataclass(frozen=True)
class Groups:
    """The rows of a batch, in the order of their experts.

    chosen: int64 [T, K], each token's experts. order: int64 [R], of chosen.flatten() the one that a
    row belongs to. tokens: int64 [R], a row's token. places: int64 [R], the row of each of
    chosen.flatten(). ends: [E], where each expert's rows end, as `ops` takes it.
    """

    chosen: Tensor
    order: Tensor
    tokens: Tensor
    places: Tensor
    ends: Tensor

    @classmethod
    def of(cls, chosen: Tensor, num_experts: int) -> Groups:
        """Arrange the rows of tokens whose experts are chosen."""
        by_expert, order = chosen.flatten().sort(stable=True)
        numbers = torch.arange(len(order), device=chosen.device)
        return cls(
            chosen=chosen,
            order=order,
            tokens=torch.div(order, chosen.shape[1], rounding_mode="floor"),
            places=torch.empty_like(order).index_copy_(0, order, numbers),
            ends=expert_ends(by_expert, num_experts),
        )

    def rows(self, n: Tensor) -> Tensor:
        """Return each row's token: [T, H] -> [R, H]."""
        if not torch.is_grad_enabled():
            return n.index_select(0, self.tokens)
        return _Rows.apply(n, self)  # type: ignore[no-any-return, no-untyped-call]

    def sums(self, rows: Tensor) -> Tensor:
        """Add up the rows of each token: [R, H] -> [T, H]. In one order, so the same each time."""
        return self.by_token(rows).sum(1)

    def by_token(self, rows: Tensor) -> Tensor:
        """Return the rows of each token, in the order of its experts: [R, ...] -> [T, K, ...]."""
        return rows.index_select(0, self.places).view(*self.chosen.shape, *rows.shape[1:])

    def by_row(self, of_tokens: Tensor) -> Tensor:
        """Return what belongs to each row: [T, K] -> [R]."""
        return of_tokens.flatten().index_select(0, self.order)

    def mixed(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Add up what experts made of each token: rows [R, H], weights [T, K] -> [T, H]."""
        if not torch.is_grad_enabled():
            return expert_mix(rows, self.places.view(self.chosen.shape), weights)
        return _Mixed.apply(rows, weights, self)  # type: ignore[no-any-return, no-untyped-call]

    def part(self, tokens: slice) -> tuple[Tensor, Tensor]:
        """Return the rows of some tokens, int64 [some], and where each expert's of them end."""
        is_in = (self.tokens >= tokens.start) & (self.tokens < tokens.stop)
        count = F.pad(is_in.cumsum(0), (1, 0))
        return is_in.nonzero().flatten(), count[self.ends.long()].to(self.ends.dtype)

    def pieces(self, size: int) -> list[tuple[slice, Groups]]:
        """List pieces of the rows, of `size` numbers each, that are best computed by themselves."""
        places = expert_pieces(self.ends, len(self.tokens), size)
        if len(places) == 1:
            return [(places[0], self)]
        return [(rows, self._piece(rows)) for rows in places]

    def _piece(self, rows: slice) -> Groups:
        return _Piece(
            chosen=self.chosen,
            order=self.order[rows],
            tokens=self.tokens[rows],
            places=self.places,
            ends=self.ends.clamp(rows.start, rows.stop) - rows.start,
        )


class _Piece(Groups):
    """Rows of some experts; what these make is mixed once all have."""

    def mixed(self, rows: Tensor, weights: Tensor) -> Tensor:
        return rows


class _Rows(torch.autograd.Function):
    """Rows of tokens, whose gradients are added up in one order: index_add's varies on a card."""

    @staticmethod
    def forward(ctx: Any, n: Tensor, groups: Groups) -> Tensor:
        ctx.groups = groups
        return n.index_select(0, groups.tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.groups.sums(grad), None


class _Mixed(torch.autograd.Function):
    """Sums of what experts made of each token, which a second pass makes of the same bits."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, groups: Groups) -> Tensor:
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, weights)
        ctx.groups = groups
        return expert_mix(rows, groups.places.view(groups.chosen.shape), weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, weights = ctx.saved_tensors
        groups: Groups = ctx.groups
        d_weights = d_rows = None
        if rows is not None:
            d_weights = torch.bmm(groups.by_token(rows), grad.unsqueeze(2)).squeeze(2)
        if ctx.needs_input_grad[0]:
            d_rows = grad.index_select(0, groups.tokens)
            d_rows.mul_(groups.by_row(weights).unsqueeze(-1))
        return d_rows, d_weights, None


class Balance:
    """A loss that evens out the experts' shares, of one batch (Fedus et al. 2021, equations 4-6).

    E times the sum, over the experts, of the rows that an expert has for a token, and its mean
    probability, both over the tokens of all layers: transformers' `load_balancing_loss_func`.
    The rows have no gradient, so that of the probabilities is known when the forward pass is over;
    it is added on the way back, also where that computes a layer again. num_tokens: those that
    count, the first of the batch; filler stands behind them.
    """

    def __init__(self, experts: ExpertsConfig, *, coefficient: float, num_tokens: int) -> None:
        self.coefficient = coefficient
        self._experts = experts
        self._num_tokens = num_tokens
        self._layers = 0
        self._sums: Tensor | None = None  # fp32 [2, E]: rows and probabilities
        self._gradient: Tensor | None = None  # [E], of each token's probabilities

    def watched(self, probabilities: Tensor, chosen: Tensor) -> Tensor:
        """Return the probabilities [T, E] of a layer, unchanged; their gradient gets its part."""
        if self._gradient is None:  # the forward pass
            chosen = chosen[: self._num_tokens].flatten()
            rows = probabilities.new_zeros(self._experts.num_experts)
            rows = rows.scatter_add(0, chosen, torch.ones_like(chosen, dtype=rows.dtype))
            of_layer = probabilities.detach()[: self._num_tokens].sum(0)
            sums = torch.stack((rows, of_layer))
            self._sums = sums if self._sums is None else self._sums + sums
            self._layers += 1
        return _Balanced.apply(probabilities, self)  # type: ignore[no-any-return, no-untyped-call]

    def close(self, weight: float) -> Tensor:
        """Return the loss, without its coefficient. weight: of it in what is differentiated."""
        assert self._sums is not None
        count = self._layers * self._num_tokens
        rows, probabilities = self._sums / count
        num_experts = self._experts.num_experts
        self._gradient = rows * (weight * self.coefficient * num_experts / count)
        loss: Tensor = num_experts * (rows * probabilities).sum()
        return loss

    def add_to(self, grad: Tensor) -> Tensor:
        """Add to the gradient of a layer's probabilities, [T, E]."""
        if self._gradient is None:
            return grad
        grad = grad.clone()
        grad[: self._num_tokens] += self._gradient
        return grad


class _Balanced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, balance: Balance) -> Tensor:
        ctx.balance = balance
        return probabilities.view_as(probabilities)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        balance: Balance = ctx.balance
        return balance.add_to(grad), None


def route(
    n: Tensor,
    router: Tensor,
    experts: ExpertsConfig,
    groups: Groups | None,
    balance: Balance | None = None,
) -> tuple[Groups, Tensor]:
    """Return the rows of n [T, H] by experts, and the weights [T, K] of what these make of it.

    router: [E, H]. groups: what was chosen when the same was computed before; a second choice could
    fall otherwise where probabilities are alike. balance: what watches a training's batch.
    """
    probabilities = F.linear(n, router).softmax(-1, dtype=torch.float32)
    weights: Tensor | None = None
    if groups is None:
        weights, chosen = probabilities.detach().topk(experts.num_experts_per_tok, dim=-1)
        groups = Groups.of(chosen, experts.num_experts)
    if balance is not None:
        probabilities = balance.watched(probabilities, groups.chosen)
    if weights is None or torch.is_grad_enabled():
        weights = probabilities.gather(-1, groups.chosen)
    if experts.norm_topk_prob:
        weights = weights / weights.sum(-1, keepdim=True)
    return groups, weights.to(n.dtype)
