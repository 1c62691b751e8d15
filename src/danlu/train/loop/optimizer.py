"""AdamW (Loshchilov and Hutter 2019) over two flat fp32 vectors: matrices, and norm weights.

Weight decay shrinks matrices and leaves norm weights alone. Nothing here makes the host wait for
the device, but for `state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from danlu.ops import AdamW, Moments
from danlu.train.loop.parameters import FlatParameters


class Optimizer:
    """Master weights, gradients and moments of everything that is trained."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        weight_decay: float,
        fused: bool,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        groups = {
            "matrices": [parameter for parameter in parameters if parameter.dim() > 1],
            "vectors": [parameter for parameter in parameters if parameter.dim() <= 1],
        }
        self._groups = {name: FlatParameters(group) for name, group in groups.items() if group}
        self._moments = {name: Moments.zeros(group.vector) for name, group in self._groups.items()}
        self._weight_decay = {"matrices": weight_decay, "vectors": 0.0}
        self._adamw = AdamW(betas=betas, eps=eps, fused=fused)

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

    def step(self, learning_rate: float, *, applied: Tensor) -> None:
        """Queue one update and bring the model's tensors up to date.

        applied: bool 0-dim, on the device; where it is false, every number stays as it is.
        """
        for name, group in self._groups.items():
            self._adamw.update(
                group.vector,
                group.grad,
                self._moments[name],
                applied=applied,
                learning_rate=learning_rate,
                weight_decay=self._weight_decay[name],
            )
            group.publish()

    def weights(self) -> list[Tensor]:
        """Return the flat fp32 master weights of matrices and of norm weights, not copied."""
        return [group.vector.detach() for group in self._groups.values()]

    def state(self) -> tuple[dict[str, Tensor], int]:
        """Return the flat tensors by name, and the number of updates applied so far."""
        tensors: dict[str, Tensor] = {}
        updates = 0
        for name, group in self._groups.items():
            moments = self._moments[name]
            tensors[f"{name}.master"] = group.vector.detach()
            tensors[f"{name}.exp_avg"] = moments.exp_avg
            tensors[f"{name}.exp_avg_sq"] = moments.exp_avg_sq
            updates = int(moments.updates)
        return tensors, updates

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take over flat tensors of the same names and sizes, from any device, and the count."""
        present, _updates = self.state()
        for name, tensor in present.items():
            tensor.copy_(tensors[name])
        for name, group in self._groups.items():
            self._moments[name].updates.fill_(updates)
            group.publish()
