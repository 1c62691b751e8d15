"""The files that LLaMA-Factory and HF's Trainer leave beside a run, made from metrics.jsonl.

trainer_log.jsonl, trainer_state.json, train_results.json, eval_results.json, all_results.json, with
the field names of LLaMA-Factory 0.9.5 and transformers 5. Scripts and web pages that read them keep
working. They say nothing that metrics.jsonl does not say, so they can be written again at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from danlu.files.atomic import atomic_write
from danlu.runs.checkpoints import checkpoint_path
from danlu.runs.metrics import read_metrics

LOG_FILE = "trainer_log.jsonl"
STATE_FILE = "trainer_state.json"
Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the files say besides the metrics.

    flops_per_token: 6 x the parameters outside the embedding, as transformers counts. result_step:
    the step whose weights are the result, the best one where it was asked for.
    """

    total_steps: int
    logging_steps: int
    eval_steps: int
    save_steps: int
    rows_per_step: int
    per_device_train_batch_size: int
    num_train_epochs: float
    num_eval_rows: int
    flops_per_token: float
    best_step: int | None = None
    best_loss: float | None = None
    result_step: int | None = None


def write_trainer_files(folder: Path, facts: RunFacts, *, is_finished: bool) -> None:
    """Write all files for the metrics so far; the results only for a finished run.

    Raises what writing a file raises.
    """
    records = read_metrics(folder)
    history = list(_history(records, facts))
    if is_finished:
        history.append(_summary(records, facts))
    log = [json.dumps(line) for line in _log_lines(history, facts)]
    atomic_write(folder / LOG_FILE, "".join(line + "\n" for line in log))
    _write_json(folder / STATE_FILE, _state(folder, history, facts))
    if not is_finished:
        return
    train = _without(history[-1], *_OURS, "step")
    evaluation = _result_evaluation(history, facts)
    _write_json(folder / "train_results.json", train)
    if evaluation:
        _write_json(folder / "eval_results.json", evaluation)
    _write_json(folder / "all_results.json", {**evaluation, **train})


def results_of(records: Sequence[Record], facts: RunFacts) -> dict[str, float]:
    """Return what the run came to: losses of the result, steps, tokens and seconds."""
    history = list(_history(records, facts))
    summary = _summary(records, facts)
    evaluation = _result_evaluation(history, facts)
    kept = ("step", "epoch", "train_loss", "train_runtime", "num_input_tokens_seen")
    results = {name: summary[name] for name in kept}
    results |= {k: evaluation[k] for k in ("eval_loss", "eval_loss_per_sample") if k in evaluation}
    if facts.best_step is not None:
        results["best_step"] = facts.best_step
    return {name: float(value) for name, value in results.items() if value is not None}


# Fields of our own on the way from the metrics to the files: seconds and tokens so far.
_OURS = ("elapsed", "tokens")


def _history(records: Sequence[Record], facts: RunFacts) -> Iterator[dict[str, Any]]:
    """Yield the entries of log_history: a mean loss every logging_steps, and each evaluation."""
    elapsed, tokens = 0.0, 0
    losses: list[float] = []
    for record in records:
        elapsed += record.get("seconds") or record.get("eval_seconds") or 0.0
        tokens += record.get("num_tokens") or 0
        common = {
            "epoch": record["epoch"],
            "step": record["step"],
            "elapsed": elapsed,
            "tokens": tokens,
        }
        if record.get("loss") is not None:
            losses.append(record["loss"])
        if "eval_loss" in record:
            yield {**_evaluation(record, facts), **common}
        elif losses and record["step"] % facts.logging_steps == 0:
            yield {
                "loss": round(sum(losses) / len(losses), 4),
                "grad_norm": record.get("grad_norm"),
                "learning_rate": record.get("learning_rate"),
                **common,
            }
            losses.clear()


def _evaluation(record: Record, facts: RunFacts) -> dict[str, Any]:
    seconds = max(record.get("eval_seconds") or 0.0, 1e-9)
    return {
        "eval_loss": record["eval_loss"],
        "eval_loss_per_sample": record.get("eval_loss_per_sample"),
        "eval_runtime": round(seconds, 4),
        "eval_samples_per_second": round(facts.num_eval_rows / seconds, 3),
        "eval_steps_per_second": round(facts.num_eval_rows / seconds, 3),
    }


def _summary(records: Sequence[Record], facts: RunFacts) -> dict[str, Any]:
    """Return the last entry: what the whole training came to."""
    steps = [r for r in records if r.get("loss") is not None]
    seconds = max(sum(r.get("seconds") or 0.0 for r in records), 1e-9)
    tokens = sum(r.get("num_tokens") or 0 for r in steps)
    losses = [r["loss"] for r in steps]
    last = records[-1] if records else {"epoch": 0.0, "step": 0}
    return {
        "epoch": last["epoch"],
        "step": last["step"],
        "num_input_tokens_seen": tokens,
        "total_flos": facts.flops_per_token * tokens,
        "train_loss": sum(losses) / max(1, len(losses)),
        "train_runtime": round(seconds, 4),
        "train_samples_per_second": round(facts.rows_per_step * last["step"] / seconds, 3),
        "train_steps_per_second": round(last["step"] / seconds, 3),
        "effective_tokens_per_sec": round(tokens / seconds, 3),
        "elapsed": sum((r.get("seconds") or r.get("eval_seconds") or 0.0) for r in records),
        "tokens": tokens,
    }


def _log_lines(history: Sequence[Record], facts: RunFacts) -> Iterator[dict[str, Any]]:
    """Yield the lines of trainer_log.jsonl; the last one of a finished run has no loss."""
    for entry in history:
        step, elapsed = entry["step"], entry["elapsed"]
        share = min(1.0, step / max(1, facts.total_steps))
        rest = elapsed / step * (facts.total_steps - step) if step else 0.0
        line = {
            "current_steps": step,
            "total_steps": facts.total_steps,
            "loss": entry.get("loss"),
            "eval_loss": entry.get("eval_loss"),
            "lr": entry.get("learning_rate"),
            "epoch": entry["epoch"],
            "percentage": round(100 * share, 2),
            "elapsed_time": _clock(elapsed),
            "remaining_time": _clock(rest),
            "throughput": round(entry["tokens"] / max(elapsed, 1e-9), 2),
            "total_tokens": entry["tokens"],
        }
        yield {key: value for key, value in line.items() if value is not None}


def _state(folder: Path, history: Sequence[Record], facts: RunFacts) -> dict[str, Any]:
    last = history[-1] if history else {"epoch": 0.0, "step": 0, "tokens": 0}
    best = None if facts.best_step is None else str(checkpoint_path(folder, facts.best_step))
    return {
        "best_global_step": facts.best_step,
        "best_metric": facts.best_loss,
        "best_model_checkpoint": best,
        "epoch": last["epoch"],
        "eval_steps": facts.eval_steps,
        "global_step": last["step"],
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": [_without(entry, *_OURS) for entry in history],
        "logging_steps": facts.logging_steps,
        "max_steps": facts.total_steps,
        "num_input_tokens_seen": last["tokens"],
        "num_train_epochs": facts.num_train_epochs,
        "save_steps": facts.save_steps,
        "stateful_callbacks": {},
        "total_flos": facts.flops_per_token * last["tokens"],
        "train_batch_size": facts.per_device_train_batch_size,
        "trial_name": None,
        "trial_params": None,
    }


def _result_evaluation(history: Sequence[Record], facts: RunFacts) -> dict[str, Any]:
    """Return the evaluation of the weights that are the result; empty where there is none."""
    evaluations = [entry for entry in history if "eval_loss" in entry]
    wanted = [e for e in evaluations if facts.result_step in (None, e["step"])] or evaluations
    return _without(wanted[-1], *_OURS, "step") if wanted else {}


def _without(entry: Record, *names: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in names}


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    atomic_write(path, json.dumps(fields, indent=4, ensure_ascii=False) + "\n")
