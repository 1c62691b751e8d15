"""Facts by name, for people: one a line, aligned, in their language.

Programs get the same facts as JSON, where names and values stay English.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from danlu.language import _, columns
from danlu.runs.registry import shown_state
from danlu.say import say
from danlu.units import readable_bytes

# How facts are called; other names (danlu, torch, python, alpha) are the same everywhere.
FACT_NAMES = {
    "device": "device",
    "memory": "memory",
    "threads": "threads",
    "processors": "processors",
    "processor_quota": "processor_quota",
    "environment": "environment",
    "waiting": "waiting",
    "precision": "precision",
    "operations": "operations",
    "switched_off": "switched off",
    "kernels": "kernels for the CPU",
    "home": "home",
    "default_model": "default model",
    "kind": "kind",
    "folder": "folder",
    "path": "folder",
    "state": "state",
    "base": "base",
    "template": "template",
    "own_template": "own_template",
    "thinking": "thinking",
    "checkpoints": "checkpoints",
    "started": "started",
    "ended": "ended",
    "rank": "rank",
    "targets": "targets",
    "parameters": "parameters",
    "active_parameters": "of them for a token",
    "experts": "experts",
    "experts_per_token": "of them for a token",
    "weights": "weights",
    "layers": "layers",
    "hidden_size": "hidden_size",
    "heads": "heads",
    "kv_heads": "kv_heads",
    "vocab_size": "vocab_size",
    "context": "context",
    "fingerprint": "fingerprint",
    "dtype": "precision",
    "size_bytes": "size",
    "step": "step",
    "epoch": "passes",
    "loss": "loss",
    "eval_loss": "held-out loss",
    "eval_loss_per_sample": "held-out loss, mean of rows",
    "train_loss": "mean training loss",
    "train_runtime": "seconds",
    "num_input_tokens_seen": "tokens seen",
    "best_step": "best step",
    "peak_memory_bytes": "peak memory",
    "is_held": "is written now",
    "pid": "process",
    "data": "data",
    "num_rows": "rows",
    "num_train_rows": "rows learned",
    "num_eval_rows": "rows held out",
    "num_train_tokens": "tokens a pass",
    "num_supervised_tokens": "of them learned",
    "num_examples": "examples",
    "num_tokens": "tokens",
    "num_supervised": "of them learned",
    "train": "to learn",
    "held_out": "held out",
    "lengths": "tokens a row",
    "min": "least",
    "median": "half",
    "max": "most",
    "cutoff_len": "cutoff_len",
    "num_over_cutoff": "rows over it",
    "num_shortened": "rows shortened",
    "num_cut_tokens": "tokens cut",
    "num_left_out": "rows left out",
    "left_out_rows": "rows left out",
    "findings": "findings",
    "settings": "not default",
}
FACT_VALUES = {
    "model": "model",
    "adapter": "adapter",
    "lora": "adapter",
    "full": "all weights",
    "run (lora)": "run (lora)",
    "run (full)": "run (full)",
}


def print_facts(facts: Mapping[str, Any], indent: str = "") -> None:
    """Print each fact after its name; those without a value as a dash."""
    labels = {name: _label(name) for name in facts}
    width = max(map(columns, labels.values()))
    for name, value in facts.items():
        label = labels[name]
        gap = " " * (width - columns(label) + 2)
        say(
            f"{indent}{label}{gap}{_shown(name, value)}",
            indent=" " * (width + 2),
        )


def _label(name: str) -> str:
    return _(FACT_NAMES[name]) if name in FACT_NAMES else name


def _shown(name: str, value: Any) -> str:
    """Write one value: lists and records in a line, numbers short, times of this place."""
    if value is None or value in ("", [], {}, ()):
        return "-"
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, Mapping):
        return _(", ").join(f"{_label(key)} {_shown(key, one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(name, one) for one in value)
    if isinstance(value, int | float) and name.endswith("_bytes"):
        return readable_bytes(int(value))
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) >= 1e-3 else f"{value:g}"
    if isinstance(value, int) and name in ("parameters", "active_parameters"):
        return f"{value:,}"
    if name == "state":
        state, _gap, detail = value.partition(" ")
        return shown_state(state, detail)
    if name in ("started", "ended"):
        return datetime.fromisoformat(value).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return _(FACT_VALUES[value]) if name == "kind" and value in FACT_VALUES else str(value)
