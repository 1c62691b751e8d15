"""run.json: what a run is made of and how it stands.

Written by training, read by chat, merge and everything that lists runs. Knows the file's form;
must not know how the recorded values are found or used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from danlu.errors import DataError, UsageError
from danlu.files.atomic import atomic_write
from danlu.files.faults import readable
from danlu.language import _

RUN_FILE = "run.json"
# running: being written, or killed while it was. stopped: it ended itself early
# (divergence, out of memory).
# interrupted: by Ctrl-C or a signal. failed: by an error.
State = Literal["running", "finished", "stopped", "failed", "interrupted"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class BaseRecord(_Record):
    """The model a run started from: the name the user gave, its folder, what it contains."""

    name: str
    path: str
    fingerprint: str


class RunManifest(_Record):
    """The content of run.json.

    `settings` are the resolved settings of the command and `origins` where each came from;
    `versions` those of python, torch, danlu; `data` the data sets, their rows, what was left out or
    shortened and why; `plan` what memory and time were predicted; `timings` in seconds; `results`
    what the run ended with.
    `arithmetic` is what shapes the numbers (micro-batch tokens, threads, op paths, dtype), reused
    by a resumed run so that it is bit-identical; as at the start, with `changes` where memory ran
    out on the way: the step that was first computed in another way, and how. `template` and
    `enable_thinking` are what chat and merge must use. `detail` explains the state. Times are ISO
    8601 in UTC.
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
    versions: dict[str, str] = Field(default_factory=dict)
    arithmetic: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    plan: dict[str, Any] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)
    results: dict[str, float] = Field(default_factory=dict)
    started: str = ""
    ended: str = ""

    def changed(self, **values: Any) -> RunManifest:
        """Return a checked copy with other values."""
        return RunManifest.model_validate({**self.model_dump(), **values})


def write_manifest(folder: Path, manifest: RunManifest) -> None:
    """Replace run.json in one stroke."""
    atomic_write(folder / RUN_FILE, manifest.model_dump_json(indent=1) + "\n")


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds a run."""
    return (folder / RUN_FILE).is_file()


def read_manifest(folder: Path) -> RunManifest:
    """Read run.json. Raises UsageError when there is none, DataError when damaged or newer."""
    file = folder / RUN_FILE
    with readable(file):
        if not is_run(folder):
            raise UsageError(
                _("{path} is not a run of danlu").format(path=folder),
                why=_("it has no file {name}").format(name=RUN_FILE),
                fix=_("give the output_dir of a `danlu train` command"),
            )
        data = file.read_bytes()
    try:
        return RunManifest.model_validate_json(data)
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(
            _("{path} cannot be read").format(path=file),
            why=f"{place}: {first['msg']}" if place else first["msg"],
            fix=_("if a newer danlu wrote it, update danlu; otherwise start the run again"),
        ) from fault
