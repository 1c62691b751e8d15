"""The model card: README.md beside an adapter, in the form that model hubs read.

Front matter as in Hugging Face's model cards. Knows run.json; says only what it holds.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

import yaml

from danlu.runs.manifest import RunManifest
from danlu.text.printable import one_line

CARD_FILE = "README.md"
_SHOWN_SETTINGS = (
    "learning_rate",
    "lr_scheduler_type",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "lora_rank",
    "lora_alpha",
    "lora_target",
    "cutoff_len",
    "seed",
)


def model_card(run: RunManifest, *, name: str) -> str:
    """Write the card of a run whose results are known."""
    is_adapter = run.kind == "lora"
    front: dict[str, Any] = {
        "library_name": "peft" if is_adapter else "transformers",
        "license": "other",
        "base_model": run.base.path if run.base.name != "starter" else "danlu/starter",
        "pipeline_tag": "text-generation",
        "tags": ["danlu", "sft", run.kind],
    }
    kind = "A LoRA adapter for" if is_adapter else "A fine-tuned"
    thinking = {True: "on", False: "off", None: "as in each row"}[run.enable_thinking]
    lines = [
        "---",
        yaml.safe_dump(front, allow_unicode=True, sort_keys=False).strip(),
        "---",
        "",
        f"# {_plain(name)}",
        "",
        f"{kind} {_plain(run.base.name)}, made with danlu {run.versions.get('danlu', '')}.",
        "",
        f"Prompt it with the template `{run.template}`, thinking {thinking}: it was trained so.",
        "",
        *_table("result", {key: f"{value:.6g}" for key, value in run.results.items()}),
        *_table("setting", {key: run.settings.get(key) for key in _SHOWN_SETTINGS}),
        *_table("version", run.versions),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _plain(text: str) -> str:
    """Escape a name of the user's, so that it becomes neither markup nor a line of its own."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", escape(one_line(text), quote=False))


def _table(head: str, values: dict[str, Any] | dict[str, str]) -> list[str]:
    rows = [
        f"| {key} | {_plain(str(value))} |" for key, value in values.items() if value is not None
    ]
    return [f"| {head} | value |", "|---|---|", *rows, ""] if rows else []
