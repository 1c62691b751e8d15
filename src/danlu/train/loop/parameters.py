"""Trainable tensors laid out as one flat fp32 vector: one optimizer call, one norm, one file.

The master values live in the flat vector. Tensors in fp32 become views of it, and so do their
gradients. Tensors in another dtype (full training in bf16) stay working copies: their gradients
are added to the flat fp32 gradient as soon as backward has produced them, and `publish` copies
the updated values back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from danlu.ops import accumulate


class FlatParameters:
    """One group of trainable tensors behind one flat leaf `vector`.

    grad: its fp32 gradient, summed over the microsteps since `zero_grad`: what is given, [numbers
    of all parameters].
    """

    def __init__(self, parameters: Sequence[nn.Parameter], grad: Tensor) -> None:
        self.vector = nn.Parameter(torch.empty_like(grad), requires_grad=True)
        self.vector.grad = self.grad = grad
        self._working: list[tuple[nn.Parameter, Tensor]] = []
        start = 0
        for parameter in parameters:
            stop = start + parameter.numel()
            self._attach(parameter, slice(start, stop))
            start = stop

    def _attach(self, parameter: nn.Parameter, span: slice) -> None:
        master = self.vector.detach()[span].view_as(parameter)
        gradient = self.grad[span].view_as(parameter)
        master.copy_(parameter.detach())
        parameter.requires_grad_(True)
        if parameter.dtype == torch.float32:
            parameter.data = master
            parameter.grad = gradient
            return

        def move_gradient(tensor: Tensor) -> None:
            assert tensor.grad is not None
            accumulate(gradient, tensor.grad)
            tensor.grad = None

        parameter.register_post_accumulate_grad_hook(move_gradient)
        self._working.append((parameter, master))

    def zero_grad(self) -> None:
        """Clear the gradient; the views stay valid."""
        self.grad.zero_()
        for parameter, _master in self._working:
            parameter.grad = None  # left behind by a backward pass that failed

    def publish(self) -> None:
        """Bring the working copies up to date with the master values."""
        with torch.no_grad():
            for parameter, master in self._working:
                parameter.copy_(master)
