"""AdamW (Loshchilov and Hutter 2019) over two flat fp32 vectors: matrices, and norm weights.

Weight decay shrinks matrices and leaves norm weights alone. Nothing here makes the host wait for
the device, but for `state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from danlu.ops import AdamW, Moments
from danlu.train.loop.parameters import FlatParameters


@dataclass(frozen=True, kw_only=True)
class _Group:
    """What is updated alike, and its state. name: of its tensors in a checkpoint."""

    name: str
    flat: FlatParameters
    moments: Moments
    weight_decay: float


class Optimizer:
    """Master weights, gradients and moments of everything that is trained."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        matrices = [parameter for parameter in parameters if parameter.dim() > 1]
        vectors = [parameter for parameter in parameters if parameter.dim() <= 1]
        self._groups: list[_Group] = []
        for name, members, decay in (
            ("matrices", matrices, weight_decay),
            ("vectors", vectors, 0.0),
        ):
            if members:
                flat = FlatParameters(members)
                moments = Moments.zeros(flat.vector)
                group = _Group(name=name, flat=flat, moments=moments, weight_decay=decay)
                self._groups.append(group)
        self._adamw = AdamW(betas=betas, eps=eps)

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for group in self._groups:
            group.flat.zero_grad()

    def clip(self, max_norm: float, *, scale: float = 1.0) -> Tensor:
        """Scale the gradient down to `max_norm` if it is longer; return its length before that.

        The gradient is first divided by `scale`, the factor that was on the loss.
        """
        if scale != 1.0:
            for group in self._groups:
                group.flat.grad.div_(scale)
        norms = [torch.linalg.vector_norm(group.flat.grad) for group in self._groups]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        if max_norm > 0:
            # 1e-6 as in torch's clip_grad_norm_, so that the update equals Hugging Face's.
            shrink = (max_norm / (norm + 1e-6)).clamp(max=1.0)
            for group in self._groups:
                group.flat.grad.mul_(shrink)
        return norm

    def step(self, learning_rate: float, *, applied: Tensor) -> None:
        """Queue one update and bring the model's tensors up to date.

        applied: bool 0-dim, on the device; where it is false, every number stays as it is.
        """
        for group in self._groups:
            self._adamw.update(
                group.flat.vector,
                group.flat.grad,
                group.moments,
                applied=applied,
                learning_rate=learning_rate,
                weight_decay=group.weight_decay,
            )
            group.flat.publish()

    def weights(self) -> list[Tensor]:
        """Return the flat fp32 master weights of matrices and of norm weights, not copied."""
        return [group.flat.vector.detach() for group in self._groups]

    def state(self) -> tuple[dict[str, Tensor], int]:
        """Return the flat tensors by name, and the number of updates applied so far."""
        tensors: dict[str, Tensor] = {}
        updates = 0
        for group in self._groups:
            tensors[f"{group.name}.master"] = group.flat.vector.detach()
            tensors[f"{group.name}.exp_avg"] = group.moments.exp_avg
            tensors[f"{group.name}.exp_avg_sq"] = group.moments.exp_avg_sq
            updates = int(group.moments.updates)
        return tensors, updates

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take over flat tensors of the same names and sizes, from any device, and the count."""
        present, _updates = self.state()
        for name, tensor in present.items():
            tensor.copy_(tensors[name])
        for group in self._groups:
            group.moments.updates.fill_(updates)
            group.flat.publish()
