"""A LoRA adapter (Hu et al. 2021): low-rank additions to chosen projections of every layer.

Holds the matrices in our merged layout: the A matrices of q, k and v stand below each other in one
matrix, so one product serves all three; each B keeps its own. Knows the model's shapes, not its
weights; knows nothing of files or training.

Shapes: `a` [sum of ranks, in features]; each `b` [out features, rank]. Where a layer has experts,
those of all of them stand below each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from danlu.errors import UsageError
from danlu.language import _
from danlu.model.config import ModelConfig
from danlu.model.layout import PROJECTIONS, expert_target, num_experts, projection_shape
from danlu.ops import Blocks, multiplies_whole

ALL_TARGETS: tuple[str, ...] = tuple(part for parts in PROJECTIONS.values() for part in parts)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Rank, scaling, dropout and targets; the field names say the same as PEFT's."""

    r: int = 8
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    use_rslora: bool = False
    target_modules: tuple[str, ...] = ALL_TARGETS

    def __post_init__(self) -> None:
        unknown = [name for name in self.target_modules if name not in ALL_TARGETS]
        if unknown or not self.target_modules:
            raise UsageError(
                _("lora_target {names} does not name projections of Qwen3.").format(
                    names=", ".join(unknown) or "()"
                ),
                why=_("The projections are {names}.").format(names=", ".join(ALL_TARGETS)),
                fix=_("Use --lora_target all, or some of these names separated by commas."),
            )
        if self.r < 1 or not 0.0 <= self.lora_dropout < 1.0:
            raise UsageError(
                _("These LoRA settings cannot be used."),
                why=_("lora_rank is {r}, lora_dropout is {dropout}.").format(
                    r=self.r, dropout=self.lora_dropout
                ),
                fix=_("Use a rank of 1 or more and a dropout from 0 to below 1."),
            )

    @property
    def scaling(self) -> float:
        """Factor on B A: alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023)."""
        return float(self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r))


@dataclass(frozen=True, kw_only=True)
class Part:
    """One target inside a merged projection: its rows of the output and its rows of `a`."""

    name: str
    out_rows: slice
    rank_rows: slice
    b: nn.Parameter


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """The addition to one merged projection: y[out_rows] += scaling * x a[rank_rows]^T b^T.

    out_features: of the whole projection. num_experts: None for one that is no expert's; else a and
    each b hold the matrices of all, and the rest is said of one of them.
    """

    out_features: int
    a: nn.Parameter
    parts: tuple[Part, ...]
    num_experts: int | None = None

    def matrices(self) -> Iterator[tuple[str, slice, Tensor, Tensor]]:
        """Yield (target, its rows of the merged weight, A [r, in], B [out, r]) as views."""
        count = self.num_experts or 1
        a = self.a.detach().view(count, -1, self.a.shape[1])
        bs = [part.b.detach().view(count, -1, part.b.shape[1]) for part in self.parts]
        for number in range(count):
            first = number * self.out_features
            for part, b in zip(self.parts, bs, strict=True):
                name = part.name if self.num_experts is None else expert_target(number, part.name)
                rows = slice(first + part.out_rows.start, first + part.out_rows.stop)
                yield name, rows, a[number, part.rank_rows], b[number]


@dataclass(frozen=True, kw_only=True)
class Working:
    """The numbers of a `LowRank` in the dtype that is computed in, as `ops` multiplies them."""

    a: Tensor
    b: Blocks


class Adapter:
    """All low-rank additions of one adapter, keyed by (layer index, merged projection).

    The matrices are uninitialised until `initialise` or a file has filled them.
    """

    def __init__(
        self, config: LoraConfig, model: ModelConfig, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config = config
        self.additions: dict[tuple[int, str], LowRank] = {}
        self._working: dict[torch.dtype, dict[tuple[int, str], Working]] = {}
        for layer in range(model.num_hidden_layers):
            for merged in PROJECTIONS:
                addition = _empty_addition(config, model, merged, layer, device, dtype)
                if addition is not None:
                    self.additions[layer, merged] = addition

    def tensors(self) -> Iterator[tuple[int, str, Tensor, Tensor]]:
        """Yield (layer, target, A [r, in], B [out, r]) as views of our storage."""
        for (layer, _merged), addition in self.additions.items():
            for name, _rows, a, b in addition.matrices():
                yield layer, name, a, b

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the trainable tensors under stable names."""
        for (layer, merged), addition in self.additions.items():
            yield f"layers.{layer}.{merged}.a", addition.a
            for part in addition.parts:
                yield f"layers.{layer}.{part.name}.b", part.b

    @torch.no_grad()
    def working(self, dtype: torch.dtype) -> Mapping[tuple[int, str], Working]:
        """Return all matrices in a dtype, as they are now; their own are not copied.

        The copies are overwritten by the next call.
        """
        if dtype not in self._working:
            self._working[dtype] = _working_copies(self.additions, dtype)
        copies = self._working[dtype]
        pairs = [
            (copy, own)
            for place, addition in self.additions.items()
            for copy, own in zip(
                (copies[place].a, *copies[place].b.parts),
                (addition.a, *(part.b for part in addition.parts)),
                strict=True,
            )
            if copy.data_ptr() != own.data_ptr()
        ]
        if pairs:
            torch._foreach_copy_([copy for copy, _own in pairs], [own for _copy, own in pairs])
        return copies

    def initialise(self, seed: int) -> None:
        """Fill A uniformly in +-1/sqrt(in), B with zeros, as PEFT does; a function of the seed."""
        for layer, name, a, b in self.tensors():
            generator = torch.Generator().manual_seed(stable_seed(seed, layer, name))
            bound = a.shape[1] ** -0.5
            values = torch.empty(a.shape).uniform_(-bound, bound, generator=generator)
            a.copy_(values)
            b.zero_()

    def scaled(self, strength: float) -> Adapter:
        """Return the adapter at another strength; 0 is the base, 1 as trained. Shares matrices."""
        other = copy(self)
        other.config = replace(self.config, lora_alpha=strength * self.config.lora_alpha)
        return other

    def num_parameters(self) -> int:
        """Count the trainable numbers."""
        return sum(parameter.numel() for _name, parameter in self.parameters())


def _working_copies(
    additions: Mapping[tuple[int, str], LowRank], dtype: torch.dtype
) -> dict[tuple[int, str], Working]:
    """Allocate copies in a dtype, not filled; matrices that can stand for themselves do."""

    def room(matrix: nn.Parameter) -> Tensor:
        own = matrix.detach()
        return own if own.dtype == dtype else torch.empty_like(own, dtype=dtype)

    def blocks(addition: LowRank) -> Blocks:
        places = tuple((part.out_rows, part.rank_rows) for part in addition.parts)
        if addition.num_experts is not None or not multiplies_whole(addition.a.device):
            return Blocks(parts=tuple(room(part.b) for part in addition.parts), places=places)
        whole = addition.a.new_zeros(addition.out_features, len(addition.a), dtype=dtype)
        return Blocks(parts=tuple(whole[place] for place in places), places=places, whole=whole)

    return {
        place: Working(a=room(addition.a), b=blocks(addition))
        for place, addition in additions.items()
    }


def stable_seed(*parts: int | str) -> int:
    """Hash numbers and names to a 63-bit seed: the same on every machine and in every process."""
    text = "/".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _empty_addition(
    config: LoraConfig,
    model: ModelConfig,
    merged: str,
    layer: int,
    device: torch.device,
    dtype: torch.dtype,
) -> LowRank | None:
    """Allocate the matrices of one merged projection; None where no part of it is a target."""
    experts = num_experts(model, merged, layer)
    count = experts or 1
    parts: list[Part] = []
    start = 0
    in_features = 0
    for name in PROJECTIONS[merged]:
        out, in_features = projection_shape(model, name, layer)
        if name in config.target_modules:
            rank_start = len(parts) * config.r
            part = Part(
                name=name,
                out_rows=slice(start, start + out),
                rank_rows=slice(rank_start, rank_start + config.r),
                b=nn.Parameter(torch.empty(count * out, config.r, device=device, dtype=dtype)),
            )
            parts.append(part)
        start += out
    if not parts:
        return None
    a = torch.empty(count * len(parts) * config.r, in_features, device=device, dtype=dtype)
    return LowRank(out_features=start, a=nn.Parameter(a), parts=tuple(parts), num_experts=experts)


def target_list(value: str | Sequence[str]) -> tuple[str, ...]:
    """Read a `lora_target` setting: `all`, or names; order and repeats vanish."""
    names = value.split(",") if isinstance(value, str) else list(value)
    wanted = {name.strip() for name in names if name.strip()}
    if "all" in wanted:
        return ALL_TARGETS
    unknown = wanted - set(ALL_TARGETS)
    return tuple(name for name in ALL_TARGETS if name in wanted) + tuple(sorted(unknown))
