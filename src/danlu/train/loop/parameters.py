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

from danlu.device.group import is_divided, own_share
from danlu.ops import accumulate


class FlatParameters:
    """One group of trainable tensors behind one flat leaf `vector`.

    places: where the numbers of each parameter lie. grad: the fp32 gradient, summed over the
    microsteps since `zero_grad`: what is given, [numbers of all parameters]. Of parameters that a
    group has divided it is all about this process's shares.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], grad: Tensor) -> None:
        self.vector = nn.Parameter(torch.empty_like(grad), requires_grad=True)
        self.vector.grad = self.grad = grad
        self._working: list[tuple[nn.Parameter, Tensor]] = []
        self._divided: list[tuple[nn.Parameter, Tensor]] = []
        self.places: list[tuple[nn.Parameter, slice]] = []
        start = 0
        for parameter in parameters:
            stop = start + own_share(parameter).numel()
            self.places.append((parameter, slice(start, stop)))
            self._attach(parameter, slice(start, stop))
            start = stop

    def _attach(self, parameter: nn.Parameter, span: slice) -> None:
        share = own_share(parameter)
        master = self.vector.detach()[span].view_as(share)
        gradient = self.grad[span].view_as(share)
        master.copy_(share)
        parameter.requires_grad_(True)
        if is_divided(parameter):
            self._divided.append((parameter, gradient))
            self._working.append((parameter, master))
            return
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

    def collect(self) -> None:
        """Add up what a microstep's backward pass has left at divided parameters."""
        for parameter, gradient in self._divided:
            if parameter.grad is not None:
                accumulate(gradient, own_share(parameter.grad))
                parameter.grad = None

    def publish(self) -> None:
        """Bring the working copies up to date with the master values."""
        with torch.no_grad():
            for parameter, master in self._working:
                own_share(parameter).copy_(master)
