"""AdamW (Loshchilov and Hutter 2019) over two flat fp32 vectors: matrices, and norm weights.

Weight decay shrinks matrices and leaves norm weights alone. Nothing here makes the host wait for
the device, but for `state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from danlu.device.group import Group
from danlu.ops import AdamW, Moments
from danlu.train.loop.parameters import FlatParameters

# What the processes of a group add up besides their gradients.
MOST_FIGURES = 3


@dataclass(frozen=True, kw_only=True)
class _Alike:
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
        sizes = [_numbers(matrices), _numbers(vectors), MOST_FIGURES]
        # All that the processes of a group add up in a step, in one piece.
        self._summed = torch.zeros(sum(sizes), device=parameters[0].device)
        parts: tuple[Tensor, ...] = self._summed.split(sizes)
        *gradients, self._figures = parts
        self._parts: list[_Alike] = []
        for name, members, decay, gradient in (
            ("matrices", matrices, weight_decay, gradients[0]),
            ("vectors", vectors, 0.0, gradients[1]),
        ):
            if members:
                flat = FlatParameters(members, gradient)
                moments = Moments.zeros(flat.vector)
                part = _Alike(name=name, flat=flat, moments=moments, weight_decay=decay)
                self._parts.append(part)
        self._adamw = AdamW(betas=betas, eps=eps)

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for part in self._parts:
            part.flat.zero_grad()

    def sum_over(self, group: Group, figures: Sequence[Tensor | float]) -> Tensor:
        """Add the gradients and up to `MOST_FIGURES` figures of all processes, in one exchange.

        Returns the sums of the figures, fp32 [MOST_FIGURES], good until the next call.
        """
        for place, figure in zip(self._figures, figures, strict=False):
            place.copy_(figure) if isinstance(figure, Tensor) else place.fill_(figure)
        group.sum(self._summed)
        return self._figures

    def clip(self, max_norm: float, *, scale: float = 1.0) -> Tensor:
        """Scale the gradient down to `max_norm` if it is longer; return its length before that.

        The gradient is first divided by `scale`, the factor that was on the loss.
        """
        if scale != 1.0:
            for part in self._parts:
                part.flat.grad.div_(scale)
        norms = [torch.linalg.vector_norm(part.flat.grad) for part in self._parts]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        if max_norm > 0:
            # 1e-6 as in torch's clip_grad_norm_, so that the update equals Hugging Face's.
            shrink = (max_norm / (norm + 1e-6)).clamp(max=1.0)
            for part in self._parts:
                part.flat.grad.mul_(shrink)
        return norm

    def step(self, learning_rate: float, *, applied: Tensor) -> None:
        """Queue one update and bring the model's tensors up to date.

        applied: bool 0-dim, on the device; where it is false, every number stays as it is.
        """
        for part in self._parts:
            self._adamw.update(
                part.flat.vector,
                part.flat.grad,
                part.moments,
                applied=applied,
                learning_rate=learning_rate,
                weight_decay=part.weight_decay,
            )
            part.flat.publish()

    def weights(self) -> list[Tensor]:
        """Return the flat fp32 master weights of matrices and of norm weights, not copied."""
        return [part.flat.vector.detach() for part in self._parts]

    def state(self) -> tuple[dict[str, Tensor], int]:
        """Return the flat tensors by name, and the number of updates applied so far."""
        tensors: dict[str, Tensor] = {}
        updates = 0
        for part in self._parts:
            tensors[f"{part.name}.master"] = part.flat.vector.detach()
            tensors[f"{part.name}.exp_avg"] = part.moments.exp_avg
            tensors[f"{part.name}.exp_avg_sq"] = part.moments.exp_avg_sq
            updates = int(part.moments.updates)
        return tensors, updates

    def take_over(self, group: Group) -> None:
        """Take over weights and moments from the process that leads."""
        tensors, updates = self.state()
        for tensor in tensors.values():
            group.take_over(tensor)
        self._restored(group.told(updates))

    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take over flat tensors of the same names and sizes, from any device, and the count."""
        present, _updates = self.state()
        for name, tensor in present.items():
            tensor.copy_(tensors[name])
        self._restored(updates)

    def _restored(self, updates: int) -> None:
        for part in self._parts:
            part.moments.updates.fill_(updates)
            part.flat.publish()


def _numbers(parameters: Sequence[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
