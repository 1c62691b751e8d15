"""PEFT's adapters on tensors that hold a projection of all experts, taken apart by expert.

With `target_parameters` PEFT adapts `experts.gate_up_proj` [E, 2 I, H] and `experts.down_proj`
[E, H, I] as wholes: lora_A [E r, in], the rows of an expert together, and lora_B [out, r E], the
columns of a rank together (peft/tuners/lora/layer.py, ParamWrapper, 0.21). Two wrappers of one
module are nested, and the inner one is called `base_layer`; which is which shows in the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from danlu.model.layout import expert_target

GATE_UP, DOWN = "gate_up_proj", "down_proj"
NAME = re.compile(
    r"base_model\.model\.(model\.layers\.\d+\.mlp)\.experts((?:\.base_layer)?)\.lora_([AB])\.weight"
)


@dataclass(frozen=True, kw_only=True)
class ExpertPart:
    """The matrix A or B of one expert's projection inside a tensor for all.

    half: which rows of B, in halves of it: 0 of gate, 1 of up; None: all.
    """

    name: str
    letter: str
    expert: int
    rank: int
    num_experts: int
    half: int | None

    @property
    def is_a(self) -> bool:
        """Whether it is an A."""
        return self.letter == "A"

    def of(self, whole: Tensor) -> Tensor:
        """Cut it out: A [r, in], B [out, r]."""
        if self.is_a:
            return whole[self.expert * self.rank : (self.expert + 1) * self.rank]
        b = whole.view(len(whole), self.rank, self.num_experts)[:, :, self.expert]
        if self.half is None:
            return b
        rows = len(b) // 2
        return b[self.half * rows : (self.half + 1) * rows]

    def shape(self, whole: tuple[int, ...]) -> tuple[int, int]:
        """Return its shape, of that of the tensor."""
        if self.is_a:
            return self.rank, whole[1]
        return whole[0] // (1 if self.half is None else 2), self.rank


Pair = tuple[str, str]


def pairs_by_layer(
    shapes: Mapping[str, tuple[int, ...]], targets: tuple[str, ...]
) -> dict[str, dict[str, Pair]]:
    """Map each layer's MLP to its adapted tensors, gate_up_proj or down_proj, and these to A and B.

    shapes: of the tensors that `NAME` matches. targets: of the settings. Raises ValueError where a
    matrix stands alone, or the shapes are those of neither.
    """
    found: dict[str, dict[str, dict[str, str]]] = {}
    for name in shapes:
        match = NAME.fullmatch(name)
        assert match is not None
        mlp, wrapper, letter = match.groups()
        found.setdefault(mlp, {}).setdefault(wrapper, {})[letter] = name
    return {mlp: _named(wrappers, shapes, targets) for mlp, wrappers in found.items()}


def _named(
    wrappers: Mapping[str, Mapping[str, str]],
    shapes: Mapping[str, tuple[int, ...]],
    targets: tuple[str, ...],
) -> dict[str, Pair]:
    pairs: list[Pair] = []
    for letters in wrappers.values():
        if letters.keys() != {"A", "B"} or any(len(shapes[n]) != 2 for n in letters.values()):
            raise ValueError(next(iter(letters.values())))
        pairs.append((letters["A"], letters["B"]))
    ends = {target.rpartition(".")[2] for target in targets} & {GATE_UP, DOWN}
    if len(pairs) == 1 and len(ends) == 1:
        return {ends.pop(): pairs[0]}
    for gate_up, down in (pairs, pairs[::-1]) if len(pairs) == 2 else ():
        (_, hidden), (doubled, _) = (shapes[name] for name in gate_up)
        (_, inner), (out, _) = (shapes[name] for name in down)
        if doubled == 2 * inner and out == hidden:
            return {GATE_UP: gate_up, DOWN: down}
    raise ValueError(pairs[0][0])


def parts_of(
    mlp: str, merged: str, pair: Pair, shapes: Mapping[str, tuple[int, ...]], rank: int
) -> Iterator[tuple[str, dict[str, ExpertPart]]]:
    """Yield each expert's module with its a and b. Raises ValueError where no rank fits."""
    num_experts, rest = divmod(shapes[pair[0]][0], rank)
    if rest or not num_experts or shapes[pair[1]][1] != rank * num_experts:
        raise ValueError(pair[0])
    halves = {"gate_proj": 0, "up_proj": 1} if merged == GATE_UP else {DOWN: None}
    for expert in range(num_experts):
        for name, half in halves.items():
            yield (
                f"{mlp}.{expert_target(expert, name)}",
                {
                    letter.lower(): ExpertPart(
                        name=stored,
                        letter=letter,
                        expert=expert,
                        rank=rank,
                        num_experts=num_experts,
                        half=half,
                    )
                    for letter, stored in zip("AB", pair, strict=True)
                },
            )
