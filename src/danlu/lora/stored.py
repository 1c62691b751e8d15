"""An adapter folder in PEFT's format, opened: what it does to every tensor of a model.

Reads whatever PEFT can express as a change of one weight: LoRA with ranks and scalings of its own
(rsLoRA too), DoRA, and trained copies of whole modules. Opening reads no tensor data. Format:
tensors are named `base_model.model.MODULE.KIND`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from danlu.errors import DataError
from danlu.language import _
from danlu.lora.adapter import ALL_TARGETS, LoraConfig
from danlu.lora.merged_experts import NAME as OF_ALL_EXPERTS
from danlu.lora.merged_experts import ExpertPart, pairs_by_layer, parts_of
from danlu.lora.peft_config import no_weights, read_peft_settings
from danlu.model.config import ModelConfig
from danlu.model.layout import layout
from danlu.weights.safetensors import SafetensorsFile

WEIGHTS_FILE = "adapter_model.safetensors"
EMBEDDING, OUTPUT = "model.embed_tokens", "lm_head"
_MODULE = (
    r"model\.layers\.\d+\.(?:self_attn\.(?:[qkvo]_proj|[qk]_norm)|(?:input|post_attention)_layernorm"
    r"|mlp\.(?:gate|(?:experts\.\d+\.)?(?:gate|up|down)_proj))|model\.norm|model\.embed_tokens|lm_head"
)
_TENSOR = re.compile(rf"base_model\.model\.({_MODULE})\.([\w.]+)")
_KINDS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "base_layer.weight": "base",
    "weight": "whole",
}
# Tensors for all experts that are kept between reading one expert's part and the next one's.
_WHOLE_KEPT = 4
# Rows are changed in pieces of about so many numbers: an embedding is large in fp32.
_NUMBERS_AT_ONCE = 2**20


@dataclass(frozen=True, kw_only=True)
class Change:
    """What becomes of a weight W [out, in]: W + scaling B A, with DoRA its rows set to lengths.

    a [r, in], b [out, r], fp32; magnitude: the lengths [out] (Liu et al. 2024). whole: another
    tensor in W's place.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    scaling: float = 1.0
    magnitude: Tensor | None = None
    whole: Tensor | None = None

    @property
    def is_nothing(self) -> bool:
        """Whether the weight stays as it is."""
        low_rank = self.b is not None and bool(self.b.any())
        return not low_rank and self.magnitude is None and self.whole is None

    def apply(self, weight: Tensor) -> Tensor:
        """Change a weight, in place where that is possible; computed in fp32."""
        if self.whole is not None:
            return self.whole.to(weight.dtype)
        if self.a is None or self.b is None:
            return weight
        step = max(1, _NUMBERS_AT_ONCE // weight.shape[1])
        for start in range(0, len(weight), step):
            rows = slice(start, start + step)
            changed = torch.addmm(weight[rows].float(), self.b[rows], self.a, alpha=self.scaling)
            if self.magnitude is not None:
                lengths = torch.linalg.vector_norm(changed, dim=1, keepdim=True)
                changed *= self.magnitude[rows, None] / lengths
            weight[rows] = changed.to(weight.dtype)
        return weight


class StoredAdapter:
    """The settings of an adapter folder, and the names of its tensors by module and kind.

    Raises what `read_peft_settings` raises, and DataError for tensors that danlu cannot use.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = read_peft_settings(folder)
        path = folder / WEIGHTS_FILE
        if not path.is_file():
            raise no_weights(folder, WEIGHTS_FILE)
        self._file = SafetensorsFile(path)
        self._modules: dict[str, dict[str, str]] = {}
        # Parts of tensors that hold those of all experts, by names that no tensor of a file has.
        self._parts: dict[str, ExpertPart] = {}
        self._merged: dict[str, str] = {}  # by module: what the settings call it
        self._whole: dict[str, Tensor] = {}  # the last that were read
        merged = [name for name in self._file.tensors if OF_ALL_EXPERTS.fullmatch(name)]
        self._take_apart({name: self._file.tensors[name].shape for name in merged})
        for name in self._file.tensors.keys() - set(merged):
            match = _TENSOR.fullmatch(name)
            kind = _KINDS.get(match.group(2)) if match else None
            if match is None or kind is None:
                raise self._unusable(_("{name} is no LoRA matrix of Qwen3.").format(name=name))
            self._modules.setdefault(match.group(1), {})[kind] = name
        if not self._modules:
            raise self._unusable(_("It holds no tensors."))
        self._check_ranks()
        self._check_whole()

    @property
    def config(self) -> LoraConfig:
        """Return what the matrices of the projections are like, the largest rank for all."""
        projections = [m for m in self._low_rank() if m.rpartition(".")[2] in ALL_TARGETS]
        ends = {module.rpartition(".")[2] for module in projections}
        settings = self.settings
        return LoraConfig(
            r=max((self._rank(module) for module in projections), default=settings.r),
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            use_rslora=settings.use_rslora,
            # An adapter of lm_head alone has none; what answers with it refuses it by name.
            target_modules=tuple(name for name in ALL_TARGETS if name in ends) or ALL_TARGETS,
        )

    @property
    def beyond_projections(self) -> str | None:
        """Name what the engine cannot add to a product while it answers; None where it can all."""
        if self.settings.use_dora:
            return "DoRA (use_dora)"
        for module, kinds in self._modules.items():
            if module.rpartition(".")[2] not in ALL_TARGETS or "whole" in kinds:
                return module
        return None

    @property
    def changed(self) -> tuple[str, ...]:
        """Name the tensors that it changes, in Hugging Face's names."""
        return tuple(
            f"{module}.weight"
            for module, kinds in self._modules.items()
            if "b" in kinds or ("whole" in kinds and self.settings.saves(module))
        )

    def check_fits(self, model: ModelConfig) -> None:
        """Compare every shape with a model's. Raises DataError where it belongs to another one."""
        shapes = weight_shapes(model)
        odd = [
            name
            for module, kinds in self._modules.items()
            for kind, name in kinds.items()
            if self._shape(name)
            != _wanted_shape(kind, shapes.get(module), self._rank(module), name)
        ]
        odd += [n for n in self._missing(shapes) if n not in odd]
        if odd:
            raise DataError(
                _("The adapter {folder} belongs to another base model.").format(folder=self.folder),
                why=_("{count} tensors do not fit, the first is {name}.").format(
                    count=len(odd), name=sorted(odd)[0]
                ),
                fix=_("Use it with its own base model: {base}").format(
                    base=self.settings.base or "?"
                ),
            )

    def change(self, name: str, weight: float = 1.0) -> Change:
        """Read what happens to one tensor; nothing, where the adapter leaves it alone.

        weight: a factor on what is added. Raises DataError for numbers that are not finite.
        """
        module = name.removesuffix(".weight")
        kinds = self._modules.get(module, {})
        read = {kind: self._finite(stored) for kind, stored in kinds.items() if kind != "base"}
        if "whole" in read:
            return Change(whole=read["whole"]) if self.settings.saves(module) else Change()
        if "b" not in read:
            return Change()
        a, b = read["a"].float(), read["b"].float()
        if module == EMBEDDING:  # PEFT keeps it the other way round
            a, b = b.t(), a.t()
        magnitude = read.get("magnitude")
        return Change(
            a=a,
            b=b,
            scaling=self._scaling(module) * weight,
            magnitude=None if magnitude is None else magnitude.float(),
        )

    def check_copies(self, read: Callable[[str], Tensor]) -> None:
        """Compare the copies of the base's own weights, which PEFT keeps beside some matrices.

        Raises DataError where the base has other ones.
        """
        for module, kinds in self._modules.items():
            own = kinds.get("base")
            if own is None and not self.settings.saves(module):
                own = kinds.get("whole")
            if own is None:
                continue
            theirs, ours = self._file.read(own), read(f"{module}.weight")
            coarser = min(theirs.dtype, ours.dtype, key=lambda dtype: dtype.itemsize)
            if not torch.equal(theirs.to(coarser), ours.to(coarser)):
                raise DataError(
                    _("The adapter {folder} belongs to another base model.").format(
                        folder=self.folder
                    ),
                    why=_("Its copy {name} has other numbers than the base.").format(name=own),
                    fix=_("Use it with its own base model: {base}").format(
                        base=self.settings.base or "?"
                    ),
                )

    def fill(self, module: str, a: Tensor, b: Tensor, scaling: float) -> None:
        """Read the matrices of a module into a [rank, in] and b [out, rank], for one scaling.

        Ranks above the module's own and modules that are left out become zero.
        """
        kinds = self._modules.get(module)
        rank = self._rank(module)
        if kinds is not None and rank == len(a) and kinds["a"] not in self._parts:
            self._file.read_into(kinds["a"], a)
            self._file.read_into(kinds["b"], b)
        else:
            a.zero_()
            b.zero_()
            if kinds is None:
                return
            a[:rank].copy_(self._read(kinds["a"]))
            b[:, :rank].copy_(self._read(kinds["b"]))
        if self._scaling(module) != scaling:
            b.mul_(self._scaling(module) / scaling)

    def _take_apart(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """List what tensors for all experts hold of each expert. Raises DataError."""
        try:
            pairs = pairs_by_layer(shapes, self.settings.target_parameters)
            for mlp, of_layer in pairs.items():
                for merged, pair in of_layer.items():
                    asked = f"{mlp}.experts.{merged}"
                    parts = parts_of(mlp, merged, pair, shapes, self.settings.rank(asked))
                    for module, by_kind in parts:
                        self._merged[module] = asked
                        for kind, part in by_kind.items():
                            name = f"{part.name} ({module})"
                            self._parts[name] = part
                            self._modules.setdefault(module, {})[kind] = name
        except ValueError as problem:
            raise self._unusable(
                _("{name} is no matrix for all experts of a layer.").format(name=problem)
            ) from problem

    def _rank(self, module: str) -> int:
        return self.settings.rank(self._merged.get(module, module))

    def _scaling(self, module: str) -> float:
        return self.settings.scaling(self._merged.get(module, module))

    def _shape(self, name: str) -> tuple[int, ...]:
        part = self._parts.get(name)
        if part is None:
            return self._file.tensors[name].shape
        return part.shape(self._file.tensors[part.name].shape)

    def _read(self, name: str) -> Tensor:
        part = self._parts.get(name)
        if part is None:
            return self._file.read(name)
        if part.name not in self._whole:
            if len(self._whole) == _WHOLE_KEPT:
                self._whole.pop(next(iter(self._whole)))
            self._whole[part.name] = self._file.read(part.name)
        return part.of(self._whole[part.name])

    def _low_rank(self) -> list[str]:
        return [module for module, kinds in self._modules.items() if "a" in kinds or "b" in kinds]

    def _check_ranks(self) -> None:
        """Rank and kind must show in the tensors: nothing is allocated on a setting's word."""
        for module in self._low_rank():
            rank, kinds = self._rank(module), self._modules[module]
            for kind in ("a", "b"):
                name = kinds.get(kind)
                if name is not None and rank not in self._shape(name):
                    shape = list(self._shape(name))
                    raise self._unusable(
                        _("{name} has shape {shape}; its rank is not {rank}").format(
                            name=name, shape=shape, rank=rank
                        )
                    )
            if self.settings.use_dora and "magnitude" not in kinds:
                raise self._unusable(
                    _("use_dora is true, but {module} has no lora_magnitude_vector.").format(
                        module=module
                    )
                )
            if "magnitude" in kinds and (not self.settings.use_dora or module == EMBEDDING):
                raise self._unusable(
                    _("The field use_dora does not fit {name}.").format(
                        name=next(iter(kinds.values()))
                    )
                )

    def _check_whole(self) -> None:
        """What belongs together must be there: both matrices, and the copies that were promised."""
        for kinds in self._modules.values():
            if ("a" in kinds) != ("b" in kinds) or ("magnitude" in kinds and "b" not in kinds):
                raise self._unusable(
                    _("{name} stands alone; lora_A and lora_B belong together.").format(
                        name=next(iter(kinds.values()))
                    )
                )
        for saved in self.settings.modules_to_save:
            modules = (m for m, kinds in self._modules.items() if "whole" in kinds)
            if not any(module.endswith(saved) for module in modules):
                raise self._unusable(
                    _("modules_to_save names {module}, of which it has no weight.").format(
                        module=saved
                    )
                )

    def _missing(self, shapes: Mapping[str, Sequence[int]]) -> list[str]:
        """Name matrices of layers that are left out and should be there."""
        if self.settings.chooses_layers:
            return []
        modules = self._low_rank()
        of_experts = {module.rpartition(".")[2] for module in modules}
        # A tensor for all experts says nothing of layers without experts.
        ends = {m.rpartition(".")[2] for m in modules if m not in self._merged} & set(ALL_TARGETS)
        absent = [
            m
            for m in shapes.keys() - self._modules.keys()
            if m.rpartition(".")[2] in (of_experts & set(ALL_TARGETS) if ".experts." in m else ends)
        ]
        return [f"base_model.model.{module}.lora_A.weight" for module in absent]

    def _finite(self, name: str) -> Tensor:
        tensor = self._read(name)
        if not tensor.isfinite().all():
            raise not_finite(self.folder, name)
        return tensor

    def _unusable(self, why: str) -> DataError:
        return DataError(
            _("The adapter file {path} cannot be used.").format(path=self.folder / WEIGHTS_FILE),
            why=why,
            fix=_("Copy the adapter folder again, or train it again."),
        )


def weight_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Map every module of a model that has a weight to its shape, lm_head always among them."""
    shapes = {
        piece.hf_name.removesuffix(".weight"): piece.shape
        for pieces in layout(model).values()
        for piece in pieces
    }
    return {**shapes, OUTPUT: shapes[EMBEDDING]}


def not_finite(folder: Path, name: str) -> DataError:
    """Build the error for an adapter with NaN or infinities, which would spoil every answer."""
    return DataError(
        _("The adapter {folder} holds numbers that are not finite.").format(folder=folder),
        why=_("The first are in {name}.").format(name=name),
        fix=_("Train it again; its training has diverged."),
    )


def _wanted_shape(
    kind: str, weight: tuple[int, ...] | None, rank: int, name: str
) -> tuple[int, ...] | None:
    """Return the shape that a tensor must have beside a weight; None where it cannot be there."""
    if weight is None or kind in ("base", "whole"):
        return weight
    if len(weight) != 2:
        return None
    rows, columns = reversed(weight) if "lora_embedding" in name else weight
    return {"a": (rank, columns), "b": (rows, rank), "magnitude": (rows,)}[kind]
