"""What is trained: an adapter over frozen weights, or every weight of the model.

Both give the trainer the same three things: trainable tensors, the `linear` of a batch, and files
that other programs load.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from danlu.data.tokens.pack import Batch
from danlu.files.draft import Draft
from danlu.hub.load import LoadedModel
from danlu.hub.save import copy_tokenizer, write_model
from danlu.lora.adapter import Adapter, LoraConfig
from danlu.lora.linear import AdapterLinear, Copies, Dropout
from danlu.lora.peft_files import write_adapter
from danlu.model.experts import Balance
from danlu.model.qwen3 import Linear, plain_linear
from danlu.model.recompute import Recompute


class Method(ABC):
    """The difference between LoRA and full-parameter training.

    base: the model that is trained, or that the adapter is trained for. at_once: whether it learns
    to answer without a thought, which other programs read in the chat template.
    balance_coefficient: of the loss that evens out the experts' shares; 0: there is none.
    """

    # Whether the base itself learns.
    trains_base = False
    balance_coefficient = 0.0

    def __init__(self, base: LoadedModel, *, at_once: bool = False) -> None:
        self.base = base
        self.at_once = at_once

    def balance(self, batch: Batch) -> Balance | None:
        """Return what evens out the experts' shares in a batch."""
        experts = self.base.config.experts
        if experts is None or not self.balance_coefficient:
            return None
        coefficient = self.balance_coefficient
        return Balance(experts, coefficient=coefficient, num_tokens=batch.num_tokens)

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """List the trainable tensors in a stable order; a tied output matrix appears once."""

    @abstractmethod
    def linear(self, batch: Batch, step: int, recompute: Recompute) -> Linear:
        """Return the `linear` that trains on a batch in optimizer step `step`."""

    @abstractmethod
    def weights_changed(self) -> None:
        """Forget what was made of the trained weights; called after every change of them."""

    @abstractmethod
    def eval_linear(self) -> Linear:
        """Return the `linear` that evaluates: no dropout."""

    def pieces(self) -> Iterator[Tensor]:
        """Yield what `save` writes, where a group may have divided it; see `Group.pieces`."""
        yield from ()

    @abstractmethod
    def save(self, draft: Draft, pieces: Iterator[Tensor]) -> None:
        """Write the trained weights in Hugging Face's or PEFT's format. pieces: from `pieces`."""

    def save_result(self, draft: Draft, pieces: Iterator[Tensor]) -> None:
        """Write the trained weights with everything that belongs to a finished result."""
        self.save(draft, pieces)


class LoraMethod(Method):
    """Train one adapter; the model's weights stay as they are."""

    def __init__(
        self, adapter: Adapter, *, base: LoadedModel, seed: int, at_once: bool = False
    ) -> None:
        super().__init__(base, at_once=at_once)
        self.adapter = adapter
        self._seed = seed
        self._copies: Copies = {}

    @classmethod
    def fresh(
        cls, base: LoadedModel, config: LoraConfig, *, seed: int, at_once: bool = False
    ) -> LoraMethod:
        """Start with a new adapter that changes nothing yet."""
        device = base.device.torch_device
        adapter = Adapter(config, base.config, device=device, dtype=torch.float32)
        adapter.initialise(seed)
        return cls(adapter, base=base, seed=seed, at_once=at_once)

    def parameters(self) -> list[nn.Parameter]:
        """List the matrices A and B."""
        return [parameter for _name, parameter in self.adapter.parameters()]

    def linear(self, batch: Batch, step: int, recompute: Recompute) -> Linear:
        """Return the projection with the adapter, and its dropout where one is set."""
        keeps_normed = recompute not in ("selective", "gate_up")
        probability = self.adapter.config.lora_dropout
        dropout = None
        if probability != 0.0:
            segments = list(zip(batch.segment_keys, batch.segment_lengths, strict=True))
            dropout = Dropout(
                probability=probability, seed=self._seed, step=step, segments=segments
            )
        return AdapterLinear(
            self.adapter,
            dropout,
            keeps_normed=keeps_normed,
            copies=self._copies,
            balance=self.balance(batch),
        )

    def weights_changed(self) -> None:
        """Forget the copies of A and B in the precision that is computed in."""
        self._copies.clear()

    def eval_linear(self) -> Linear:
        """Return the projection with the adapter."""
        return AdapterLinear(self.adapter)

    def save(self, draft: Draft, pieces: Iterator[Tensor]) -> None:
        """Write the adapter as PEFT would; it is whole everywhere."""
        write_adapter(draft, self.adapter, base_model=str(self.base.folder))

    def save_result(self, draft: Draft, pieces: Iterator[Tensor]) -> None:
        """Write the adapter and how to tokenize and prompt: what other programs look for."""
        self.save(draft, pieces)
        copy_tokenizer(draft, like=self.base.folder, at_once=self.at_once)


class FullMethod(Method):
    """Train every weight of the model."""

    trains_base = True

    def parameters(self) -> list[nn.Parameter]:
        """List all weights; a tied output matrix appears once."""
        return list(self.base.model.parameters())

    def linear(self, batch: Batch, step: int, recompute: Recompute) -> Linear:
        """Return the plain projection; autograd does the rest."""
        balance = self.balance(batch)
        if balance is None:
            return plain_linear
        linear = Linear()
        linear.balance = balance
        return linear

    def weights_changed(self) -> None:
        """Do nothing: products take the weights themselves."""

    def eval_linear(self) -> Linear:
        """Return the plain projection."""
        return plain_linear

    def pieces(self) -> Iterator[Tensor]:
        """Yield all weights in the order of their files."""
        model, group = self.base.model, self.base.shared_by
        if group.is_alone:
            yield from (tensor for _name, tensor in model.hf_tensors())
            return
        from danlu.model.divided import pieces

        yield from pieces(model, group)

    def save(self, draft: Draft, pieces: Iterator[Tensor]) -> None:
        """Write a complete model folder."""
        model, like = self.base.model, self.base.folder
        write_model(draft, model, like=like, at_once=self.at_once, pieces=pieces)
