"""The command that goes on with a run, from what run.json says."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

from danlu.runs.manifest import RunManifest
from danlu.settings.option_names import DEFAULT

# What the command says itself, and what has become of a preset's values.
_SAID_ANEW = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "preset")


def resume_command(folder: Path, run: RunManifest) -> str:
    """Write the command that resumes a run, from the folder in which it was given."""
    words = ["danlu", "train"]
    for name, value in run.settings.items():
        # The default model may be another one by now.
        is_given = run.origins.get(name, DEFAULT) != DEFAULT or name == "model_name_or_path"
        if is_given and name not in _SAID_ANEW:
            words += [f"--{name}", _written(value)]
    words += ["--output_dir", str(folder), "--resume_from_checkpoint", "true"]
    command = shlex.join(words)
    is_elsewhere = run.cwd not in ("", os.getcwd())
    return f"cd {shlex.quote(run.cwd)} && {command}" if is_elsewhere else command


def _written(value: Any) -> str:
    """Write a value as a flag takes it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
