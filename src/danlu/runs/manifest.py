"""run.json: what a run is made of and how it stands.

Written by training, read by chat, merge and everything that lists runs. Knows the file's form;
must not know how the recorded values are found or used.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from danlu.errors import UsageError
from danlu.files.atomic import atomic_write
from danlu.files.json_file import read_json_file
from danlu.language import _
from danlu.model.config import WeightForm
from danlu.model.recompute import Recompute

RUN_FILE = "run.json"
# running: being written, or killed while it was. stopped: it ended itself early
# (divergence, out of memory).
# interrupted: by Ctrl-C or a signal. failed: by an error.
State = Literal["running", "finished", "stopped", "failed", "interrupted"]


def _time(text: str) -> str:
    if text:
        datetime.fromisoformat(text)
    return text


Time = Annotated[str, AfterValidator(_time)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class BaseRecord(_Record):
    """The model a run started from: the name the user gave, its folder, what it contains."""

    name: str
    path: str
    fingerprint: str


class _OpenRecord(_Record):
    """A record in which keys of other versions stay, and absent keys stay absent."""

    model_config = ConfigDict(extra="allow")

    @model_serializer(mode="wrap")
    def _as_written(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in fields(self).items() if key in self.model_fields_set}


class ChangeRecord(_OpenRecord):
    """From which step on a run computed in another way, because memory ran out, and how."""

    step: int
    micro_batch_tokens: int
    chunk_rows: int
    recompute: Recompute
    packs_base: bool = False


class ResumeRecord(_OpenRecord):
    """That a run went on from `step`. lost: the losses behind it, by step, as they were before.

    They are computed again; on the CPU the new ones equal these to the last bit. num_devices: that
    it went on with.
    """

    step: int
    num_devices: int = 1
    lost: dict[int, float | None] = Field(default_factory=dict)


class ArithmeticRecord(_OpenRecord):
    """What shapes a run's numbers; a resumed run uses it again, so that it is bit-identical.

    All as at the start, then the changes, and where it was resumed. base_form: in which the base
    below an adapter was kept; None: as it is. ops: the variants of the hot operations by name.
    num_devices: that it began with; whatever their number later, its steps have as many rows.
    is_shared: each of them holds a share of the base. packs_base: as in
    `StepPlan`. The defaults of chunk_rows, recompute and packs_base are how older versions
    computed, which did not record them; None: not recorded.
    """

    device: str | None = None
    device_description: str | None = None
    dtype: str | None = None
    threads: int | None = None
    base_form: WeightForm | None = None
    ops: dict[str, str] = Field(default_factory=dict)
    num_devices: int = 1
    is_shared: bool = False
    micro_batch_tokens: int | None = None
    chunk_rows: int = 256
    recompute: Recompute = "none"
    packs_base: bool = False
    changes: tuple[ChangeRecord, ...] = ()
    resumes: tuple[ResumeRecord, ...] = ()


class DataRecord(_OpenRecord):
    """The rows of a run and what became of them; None and empty: not recorded.

    num_train_tokens and num_supervised_tokens: of one pass. datasets: a sentence each. train,
    held_out: rows, examples and tokens of each side. lengths: quantiles of tokens a row. findings:
    how many of each kind. left_out_rows: `file:line: what; fix` of the first ones.
    """

    fingerprint: str | None = None
    num_train_rows: int | None = None
    num_eval_rows: int | None = None
    num_train_tokens: int | None = None
    num_supervised_tokens: int | None = None
    datasets: tuple[str, ...] = ()
    num_rows: int | None = None
    train: dict[str, int] = Field(default_factory=dict)
    held_out: dict[str, int] = Field(default_factory=dict)
    lengths: dict[str, int] = Field(default_factory=dict)
    cutoff_len: int | None = None
    num_over_cutoff: int | None = None
    num_shortened: int | None = None
    num_cut_tokens: int | None = None
    num_left_out: int | None = None
    findings: dict[str, int] = Field(default_factory=dict)
    left_out_rows: tuple[str, ...] = ()


class RunManifest(_Record):
    """The content of run.json.

    settings: the resolved settings of the command; origins: where each came from; cwd: the folder
    in which it was given, "" in runs of before. template,
    enable_thinking: what chat and merge must use. versions: of python, torch, danlu. plan: what
    memory and time were predicted. timings: in seconds. results: what the run ended with. detail:
    explains the state. started, ended: ISO 8601 in UTC.
    """

    version: Literal[1] = 1
    state: State
    detail: str = ""
    kind: str = "lora"
    base: BaseRecord
    template: str
    enable_thinking: bool | None
    settings: dict[str, Any] = Field(default_factory=dict)
    origins: dict[str, str] = Field(default_factory=dict)
    cwd: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    arithmetic: ArithmeticRecord = Field(default_factory=ArithmeticRecord)
    data: DataRecord = Field(default_factory=DataRecord)
    plan: dict[str, Any] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)
    results: dict[str, float] = Field(default_factory=dict)
    started: Time = ""
    ended: Time = ""

    @property
    def base_form(self) -> WeightForm | None:
        """The form in which the base below the adapter was kept; None: as it is."""
        # Older runs have recorded the setting only.
        return self.arithmetic.base_form or ("fp8" if self.settings.get("fp8") else None)

    def changed(self, **values: Any) -> RunManifest:
        """Return a checked copy with other values."""
        return RunManifest.model_validate({**self.model_dump(), **values})


def write_manifest(folder: Path, manifest: RunManifest) -> None:
    """Replace run.json in one stroke."""
    atomic_write(folder / RUN_FILE, manifest.model_dump_json(indent=1) + "\n")


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds a run."""
    return (folder / RUN_FILE).exists()


def read_manifest(folder: Path) -> RunManifest:
    """Read run.json. Raises UsageError when there is none, DataError when damaged or newer."""
    file = folder / RUN_FILE
    if not is_run(folder):
        raise UsageError(
            _("{path} is not a run of danlu.").format(path=folder),
            why=_("It has no file {name}.").format(name=RUN_FILE),
            fix=_("Give the output_dir of a `danlu train` command."),
        )
    fix = _("If a newer danlu wrote it, update danlu; otherwise start the run again.")
    record = read_json_file(file, fix=fix)
    try:
        return RunManifest.model_validate(record.fields)
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise record.broken(f"{place}: {first['msg']}" if place else first["msg"]) from fault
