"""AdamW (Loshchilov and Hutter 2019) over two flat fp32 vectors: matrices, and norm weights.

Weight decay shrinks matrices and leaves norm weights alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from danlu.train.parameters import FlatParameters, split_for_decay

_MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer:
    """Master weights, gradients and moments of everything that is trained."""

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        weight_decay: float,
        fused: bool,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        matrices, vectors = split_for_decay(named)
        self._groups: dict[str, FlatParameters] = {}
        options = []
        for name, group, decay in (("matrices", matrices, weight_decay), ("vectors", vectors, 0.0)):
            if group:
                self._groups[name] = FlatParameters(group)
                options.append({"params": [self._groups[name].vector], "weight_decay": decay})
        self._fused = fused
        # The rate is set at every step.
        self._adamw = torch.optim.AdamW(options, lr=0.0, betas=betas, eps=eps, fused=fused)

    @property
    def num_parameters(self) -> int:
        """Count the trained numbers."""
        return sum(group.vector.numel() for group in self._groups.values())

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for group in self._groups.values():
            group.zero_grad()

    def clip(self, max_norm: float, *, scale: float = 1.0) -> Tensor:
        """Scale the gradient down to `max_norm` if it is longer; return its length before that.

        The gradient is first divided by `scale`, the factor that was on the loss.
        """
        if scale != 1.0:
            for group in self._groups.values():
                group.grad.div_(scale)
        norms = [torch.linalg.vector_norm(group.grad) for group in self._groups.values()]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        if max_norm > 0:
            # 1e-6 as in torch's clip_grad_norm_, so that the update equals Hugging Face's.
            shrink = (max_norm / (norm + 1e-6)).clamp(max=1.0)
            for group in self._groups.values():
                group.grad.mul_(shrink)
        return norm

    def step(self, learning_rate: float) -> None:
        """Apply one update and bring the model's tensors up to date."""
        for options in self._adamw.param_groups:
            options["lr"] = learning_rate
        self._adamw.step()
        for group in self._groups.values():
            group.publish()

    def state(self) -> tuple[dict[str, Tensor], int]:
        """Return the flat tensors by name, and the number of updates applied so far."""
        tensors: dict[str, Tensor] = {}
        updates = 0
        for name, group in self._groups.items():
            tensors[f"{name}.master"] = group.vector.detach()
            state = self._adamw.state[group.vector]
            for moment in _MOMENTS:
                tensors[f"{name}.{moment}"] = state.get(moment, torch.zeros_like(group.vector))
            updates = int(state["step"]) if state else 0
        return {name: tensor.detach() for name, tensor in tensors.items()}, updates

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take over flat tensors of the same names and sizes, from any device, and the count."""
        for name, group in self._groups.items():
            device = group.vector.device
            with torch.no_grad():
                group.vector.copy_(tensors[f"{name}.master"])
            self._adamw.state[group.vector] = {
                # Where torch keeps it: a fused kernel reads the count itself.
                "step": torch.tensor(float(updates), device=device if self._fused else None),
                **{m: tensors[f"{name}.{m}"].to(device, copy=True) for m in _MOMENTS},
            }
            group.publish()
