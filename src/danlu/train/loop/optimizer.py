"""AdamW (Loshchilov and Hutter 2019) over two flat fp32 vectors: matrices, and norm weights.

Weight decay shrinks matrices and leaves norm weights alone. Nothing here makes the host wait for
the device, but for `num_updates` and pieces that arrive from others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from danlu.device.group import ALONE, Group, own_share
from danlu.ops import AdamW, Moments
from danlu.train.loop.parameters import FlatParameters

# Gives numbers [start, stop) of a flat tensor, by name.
ReadNumbers = Callable[[str, int, int], Tensor]
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
    """Master weights, gradients and moments of everything that is trained.

    shares: the group that has divided the parameters, whose processes each update their share.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        shares: Group = ALONE,
    ) -> None:
        self._shares = shares
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
        # Gradients of divided parameters have been added up behind each microstep.
        group.sum(self._summed if self._shares.is_alone else self._figures)
        return self._figures

    @property
    def averaged_over(self) -> int:
        """Over how many processes gradients are averaged already when they arrive here."""
        return self._shares.size

    def collect(self) -> None:
        """Take over what a microstep has left at divided parameters."""
        for part in self._parts:
            part.flat.collect()

    def clip(self, max_norm: float, *, scale: float = 1.0) -> Tensor:
        """Scale the gradient down to `max_norm` if it is longer; return its length before that.

        The gradient is first divided by `scale`, the factor that was on the loss.
        """
        if scale != 1.0:
            for part in self._parts:
                part.flat.grad.div_(scale)
        norms = [torch.linalg.vector_norm(part.flat.grad) for part in self._parts]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        if not self._shares.is_alone:
            square = norm.square()
            self._shares.sum(square)
            norm = square.sqrt()
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

    def pieces(self) -> Iterator[Tensor]:
        """Yield the flat fp32 tensors that `sizes` names, in that order; not copied.

        Divided ones arrive at the lead as `Group.pieces` says.
        """
        for part, vector in self._vectors().values():
            if self._shares.is_alone:
                yield vector
                continue
            for parameter, span in part.flat.places:
                share, rows = vector[span].view_as(own_share(parameter)), len(parameter)
                for piece in self._shares.pieces(share, rows, 0, rows):
                    yield piece.flatten()

    def num_updates(self) -> int:
        """Count the updates applied so far."""
        return max(int(part.moments.updates) for part in self._parts)

    def sizes(self) -> dict[str, int]:
        """Return how many numbers each flat tensor has, by its name in a checkpoint."""
        return {
            name: sum(parameter.numel() for parameter, _span in part.flat.places)
            for name, (part, _vector) in self._vectors().items()
        }

    def take_over(self, group: Group) -> None:
        """Take over weights and moments from the process that leads."""
        for _part, vector in self._vectors().values():
            group.take_over(vector)
        self._restored(group.told(self.num_updates()))

    def restore(self, read: ReadNumbers | None, updates: int) -> None:
        """Take over flat tensors of the same names and sizes, and the count of updates.

        read: gives numbers [start, stop) of one, by name, at the process that leads; the others
        get their shares from there.
        """
        for name, (part, vector) in self._vectors().items():
            first = 0
            for parameter, span in part.flat.places:
                share = vector[span].view_as(own_share(parameter))
                rows = None if read is None else _rows_of(parameter.shape, read, name, first)
                self._shares.deal(rows, share, len(parameter))
                first += parameter.numel()
        self._restored(self._shares.told(updates))

    def _vectors(self) -> dict[str, tuple[_Alike, Tensor]]:
        """Return this process's flat tensors by name, with what they belong to."""
        return {
            f"{part.name}.{name}": (part, vector)
            for part in self._parts
            for name, vector in (
                ("master", part.flat.vector.detach()),
                ("exp_avg", part.moments.exp_avg),
                ("exp_avg_sq", part.moments.exp_avg_sq),
            )
        }

    def _restored(self, updates: int) -> None:
        for part in self._parts:
            part.moments.updates.fill_(updates)
            part.flat.publish()


def _rows_of(
    shape: torch.Size, read: ReadNumbers, name: str, first: int
) -> Callable[[int, int], Tensor]:
    """Return what reads rows of a parameter whose numbers stand in a flat tensor from `first`."""
    width = shape[1:].numel()

    def rows(start: int, stop: int) -> Tensor:
        numbers = read(name, first + start * width, first + stop * width)
        return numbers.view(stop - start, *shape[1:])

    return rows


def _numbers(parameters: Sequence[nn.Parameter]) -> int:
    return sum(own_share(parameter).numel() for parameter in parameters)
