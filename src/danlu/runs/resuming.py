"""How to go on with a run, from what run.json says: as settings, and as a command to type."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu.runs.manifest import RunManifest
from danlu.settings.option_names import DEFAULT

# What the command says itself, and what has become of a preset's values.
_SAID_ANEW = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "preset")


def given_settings(run: RunManifest) -> dict[str, Any]:
    """Return what a command has to say to mean the same run: what was given, and the model."""
    return {
        name: value
        for name, value in run.settings.items()
        # The default model may be another one by now.
        if (run.origins.get(name, DEFAULT) != DEFAULT or name == "model_name_or_path")
        and name not in _SAID_ANEW
    }


def resume_command(folder: Path, run: RunManifest) -> str:
    """Write the command that resumes a run, from the folder in which it was given."""
    command = train_command({**given_settings(run), **going_on_in(folder)})
    is_elsewhere = run.cwd not in ("", os.getcwd())
    return f"cd {shlex.quote(run.cwd)} && {command}" if is_elsewhere else command


def going_on_in(folder: Path, checkpoint: str | None = None) -> dict[str, Any]:
    """Return the settings that say to go on, from the newest checkpoint where none is named."""
    return {"output_dir": str(folder), "resume_from_checkpoint": checkpoint or True}


def train_command(settings: Mapping[str, Any]) -> str:
    """Write settings as the words of `danlu train`."""
    words = ["danlu", "train"]
    for name, value in settings.items():
        words += [f"--{name}", written(value)]
    return shlex.join(words)


def written(value: Any) -> str:
    """Write a value as a flag takes it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # as it was typed: --save_steps 5
    return value if isinstance(value, str) else json.dumps(value)
