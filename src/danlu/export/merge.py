"""Merging adapters into their base: W + scaling * B A, written shard by shard and verified.

One tensor is in memory at a time. Before the folder gets its name, the merged model is read back
from disk and its logits on a few prompts are compared with those of base and adapters; a merge that
answers differently is discarded.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from danlu.device.detect import Device
from danlu.errors import DataError, UsageError
from danlu.export.on_disk import Changes, logits_on_disk
from danlu.export.verify import compare, probe_prompts
from danlu.files.committed import committed_folder
from danlu.files.os_errors import require_free
from danlu.hub.adapters import AdapterSource, check_adapter
from danlu.hub.fingerprint import fingerprint
from danlu.hub.load import CheckedModel, check_model
from danlu.hub.prompting import MERGE_REPORT, Prompting
from danlu.hub.save import write_folder
from danlu.language import _
from danlu.lora.stored import EMBEDDING, OUTPUT, Change, StoredAdapter
from danlu.model.config import ModelConfig
from danlu.model.sizes import num_expert_layers, num_parameters
from danlu.moving_line import Progress, no_progress
from danlu.text.render import TURN_END
from danlu.weights.safetensors import TORCH_DTYPES
from danlu.weights.sharded import SHARD_BYTES, TensorPlan

# Mean Kullback-Leibler divergence (nats per token) between base + adapter and merged: what remains
# of a right merge is the rounding of its weights. The demo's bf16 merge gives 5e-6; the wide margin
# is for adapters with large updates.
MAX_MEAN_KL = 0.02
# The verification's prompts have about so many tokens.
_PROBE_TOKENS = 100
_EMBEDDING, _OUTPUT = f"{EMBEDDING}.weight", f"{OUTPUT}.weight"


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """An adapter of a merge, and the factor on what it adds."""

    source: AdapterSource
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What was merged and how closely the result agrees. Logit differences are absolute.

    trained_on: the forms of quantised bases that adapters were trained on.
    """

    base: str
    base_fingerprint: str
    base_is_proven: bool
    adapter: str
    weights: dict[str, float]
    template: str
    enable_thinking: bool | None
    dtype: str
    verified_in: str
    num_merged_tensors: int
    num_bytes: int
    num_probe_tokens: int
    max_logit_difference: float
    mean_kl: float
    top1_agreement: float
    trained_on: tuple[str, ...] = ()


def merge(
    base_name: str,
    ingredients: Sequence[Ingredient],
    export_dir: Path,
    *,
    device: Device,
    prompting: Prompting | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = no_progress,
) -> MergeReport:
    """Merge, verify and commit to `export_dir`, which must be new or empty; return the report.

    prompting: how the merged model is to be prompted; None: as the adapters were trained. The chat
    template has it as its default, for other programs.
    Raises UsageError, CapacityError (before anything is written), or DataError where the merged
    model's logits differ.
    """
    adapters = [f"{each.source.folder}={each.weight:g}" for each in ingredients]
    check_empty(
        export_dir, ["danlu", "merge", "--model", base_name, "--adapter", ",".join(adapters)]
    )
    prompting = prompting or common_prompting(ingredients, base_name)
    progress(_("checking base and adapter"), 0, 0)
    base = check_model(base_name)
    identity = fingerprint(base.config, base.weights)
    for each in ingredients:
        check_adapter(each.source, name=base_name, fingerprint=identity)
    merged = _Merged(base, ingredients)
    # The merged model is as large as its base; its companion files are small.
    require_free(export_dir, merged.num_bytes + 32 * 2**20)
    logits = partial(
        _logits, probe_prompts(base.tokenizer, prompting), device=device, progress=progress
    )
    expected = logits(base, merged.all_changes(), _("asking base and adapter"))
    with committed_folder(export_dir) as draft:
        write_folder(
            draft,
            merged.plans,
            merged.reader(progress),
            like=base.folder,
            turn_end=base.tokenizer.control_id(TURN_END),
            at_once=prompting.answers_at_once,
            shard_bytes=shard_bytes,
            config_fields={"tie_word_embeddings": False} if merged.is_untied else {},
        )
        answers = logits(check_model(str(draft.path)), {}, _("asking the merged model"))
        report = MergeReport(
            base=base_name,
            base_fingerprint=identity,
            template=prompting.template,
            enable_thinking=prompting.enable_thinking,
            verified_in="float32",
            **merged.facts(),
            **_figures(expected, answers),
        )
        if not report.mean_kl <= MAX_MEAN_KL:
            raise _differs(report)
        draft.write(MERGE_REPORT, json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n")
    return report


def merge_memory_bytes(config: ModelConfig) -> int:
    """Say about how much memory a merge takes: a layer in fp32, one tensor, and logits."""
    table = config.vocab_size * config.hidden_size
    embeddings = table * (1 if config.tie_word_embeddings else 2)
    layer = (num_parameters(config) - embeddings) // config.num_hidden_layers
    if config.experts is not None:  # layers without experts are small
        layer = (num_parameters(config) - embeddings) // max(1, num_expert_layers(config))
    matrix = config.hidden_size * config.intermediate_size
    # A matrix as it is stored, in fp32, and what is added to it; the embedding is copied piecewise.
    merged = max(3 * 4 * matrix, 2 * table)
    return max(4 * layer, merged) + 2 * 4 * _PROBE_TOKENS * config.vocab_size


def _logits(
    prompts: Sequence[Sequence[int]],
    model: CheckedModel,
    changes: Changes,
    what: str,
    *,
    device: Device,
    progress: Progress,
) -> Tensor:
    return logits_on_disk(
        model.weights,
        model.config,
        prompts,
        device=device.torch_device,
        changes=changes,
        progress=partial(progress, what),
    )


def _figures(expected: Tensor, answers: Tensor) -> dict[str, Any]:
    difference, mean_kl, top1 = compare(expected, answers)
    return {
        "num_probe_tokens": len(expected),
        "max_logit_difference": difference,
        "mean_kl": mean_kl,
        "top1_agreement": top1,
    }


class _Merged:
    """The tensors of the merged model, each made when it is written.

    Where an adapter changes one of two tied matrices, the other one is written too.
    """

    def __init__(self, base: CheckedModel, ingredients: Sequence[Ingredient]) -> None:
        self._weights = base.weights
        self._ingredients = ingredients
        self._adapters = [(StoredAdapter(each.source.folder), each.weight) for each in ingredients]
        for adapter, weight in self._adapters:
            adapter.check_fits(base.config)
            adapter.check_copies(self._original)
            beyond = adapter.beyond_projections
            if beyond is not None and (len(ingredients) > 1 or weight != 1.0):
                raise _alone(adapter.folder, beyond, base_name=str(base.folder))
        names = {name for adapter, _weight in self._adapters for name in adapter.changed}
        self.num_changed = 0
        tied = base.config.tie_word_embeddings
        self.is_untied = tied and bool(names & {_EMBEDDING, _OUTPUT})
        self.plans = [
            TensorPlan(name=name, dtype=TORCH_DTYPES[stored.dtype], shape=stored.shape)
            for name, file in self._weights.files.items()
            for stored in (file.tensors[name],)
        ]
        if self.is_untied and _OUTPUT not in self._weights.files:
            like = next(plan for plan in self.plans if plan.name == _EMBEDDING)
            self.plans.append(TensorPlan(name=_OUTPUT, dtype=like.dtype, shape=like.shape))
        self.num_bytes = sum(plan.num_bytes for plan in self.plans)
        self._names = names

    def changes(self, name: str) -> list[Change]:
        """Return what the adapters do to a tensor, in their order; [] where nothing."""
        if name not in self._names:
            return []
        found = [adapter.change(name, weight) for adapter, weight in self._adapters]
        return [change for change in found if not change.is_nothing]

    def all_changes(self) -> dict[str, list[Change]]:
        """Read what the adapters do to every tensor that they change."""
        found = {name: self.changes(name) for name in sorted(self._names)}
        return {name: changes for name, changes in found.items() if changes}

    def reader(self, progress: Progress) -> Callable[[str], Tensor]:
        """Return what makes one tensor after the other, and tells how far it is."""
        sizes = {plan.name: plan.num_bytes for plan in self.plans}
        done = 0

        def fetch(name: str) -> Tensor:
            nonlocal done
            progress(_("merging"), done, self.num_bytes)
            done += sizes[name]
            tensor = self._original(name)
            changes = self.changes(name)
            self.num_changed += bool(changes)
            for change in changes:
                tensor = change.apply(tensor)
            return tensor

        return fetch

    def facts(self) -> dict[str, Any]:
        """Say what was merged, for the report."""
        folders = [str(each.source.folder) for each in self._ingredients]
        runs = [each.source.run for each in self._ingredients]
        return {
            "base_is_proven": all(each.source.run is not None for each in self._ingredients),
            "adapter": ",".join(folders),
            "trained_on": tuple(sorted({run.base_form for run in runs if run and run.base_form})),
            "weights": {str(each.source.folder): each.weight for each in self._ingredients},
            "dtype": str(self.plans[0].dtype).removeprefix("torch."),
            "num_merged_tensors": self.num_changed,
            "num_bytes": self.num_bytes,
        }

    def _original(self, name: str) -> Tensor:
        stored = name if name in self._weights.files else _EMBEDDING
        return self._weights.files[stored].read(stored)


def common_prompting(
    ingredients: Sequence[Ingredient],
    base_name: str,
    template: str | None = None,
    enable_thinking: bool | None = None,
) -> Prompting:
    """Find how all adapters were trained to be prompted; what is given counts instead.

    Raises UsageError where they differ.
    """
    found = {
        str(each.source.folder): each.source.prompting(base_name).override(
            template, enable_thinking
        )
        for each in ingredients
    }
    if len(set(found.values())) > 1:
        raise UsageError(
            _("The adapters were not trained to be prompted alike."),
            why="; ".join(
                f"{name}: {each.template}, {each.enable_thinking}" for name, each in found.items()
            ),
            fix=_("Say how the merged model is prompted: --template NAME --enable_thinking false"),
        )
    return next(iter(found.values()))


def check_empty(folder: Path, words: Sequence[str]) -> None:
    """Raise UsageError where a folder holds anything. words: of the command, without its folder."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    numbers = (folder.with_name(f"{folder.name}-{number}") for number in range(2, 10_000))
    other = next(path for path in numbers if not path.exists())
    raise UsageError(
        _("The export folder {folder} is not empty.").format(folder=folder),
        why=_("It holds a merged model; a merge never overwrites what is there.")
        if (folder / MERGE_REPORT).is_file()
        else _("A merge never overwrites what is there."),
        fix=shlex.join([*words, "--export_dir", str(other)]),
    )


def _alone(folder: Path, what: str, *, base_name: str) -> UsageError:
    return UsageError(
        _("The adapter {folder} can only be merged alone and whole.").format(folder=folder),
        why=_("Beside plain LoRA on the projections it holds {what}.").format(what=what),
        fix=_(
            "Merge it first, then the others into the result: danlu merge --adapter {folder} "
            "--model_name_or_path {base} --export_dir {merged}"
        ).format(
            folder=shlex.quote(str(folder)),
            base=shlex.quote(base_name),
            merged=shlex.quote(str(folder.with_name(f"{folder.name}-merged"))),
        ),
    )


def _differs(report: MergeReport) -> DataError:
    return DataError(
        _("The merged model does not answer like base and adapter; nothing was written."),
        why=_("Mean divergence on the probe prompts is {kl:.4f}, the limit is {limit}.").format(
            kl=report.mean_kl, limit=MAX_MEAN_KL
        ),
        fix=_("Check that the adapter belongs to this base; a float32 base loses nothing."),
    )
