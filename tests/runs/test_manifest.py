"""run.json: its keys are an interface, and runs of other versions stay as they are."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from danlu.errors import DataError
from danlu.plan.job import StepPlan
from danlu.runs.manifest import (
    RUN_FILE,
    ArithmeticRecord,
    ChangeRecord,
    DataRecord,
    RunManifest,
    read_manifest,
    write_manifest,
)

# As version 0.1.0 writes it; settings, origins, plan and results, which stay open, are shortened.
WRITTEN = """\
{
 "version": 1,
 "state": "finished",
 "detail": "3 steps",
 "kind": "lora",
 "base": {
  "name": "model",
  "path": "/models/model",
  "fingerprint": "0123abcd"
 },
 "template": "qwen3",
 "enable_thinking": true,
 "settings": {
  "dataset": "rows.jsonl",
  "max_steps": 3
 },
 "origins": {
  "max_steps": "command line"
 },
 "cwd": "/home/me",
 "versions": {
  "danlu": "0.1.0",
  "torch": "2.13.0+cpu",
  "python": "3.11.7"
 },
 "arithmetic": {
  "device": "cpu",
  "device_description": "AMD EPYC",
  "dtype": "float32",
  "threads": 1,
  "base_form": "int8",
  "ops": {
   "adamw": "fused"
  },
  "num_devices": 2,
  "is_shared": true,
  "micro_batch_tokens": 10000,
  "chunk_rows": 128,
  "recompute": "selective",
  "packs_base": true,
  "changes": [
   {
    "step": 3,
    "micro_batch_tokens": 87,
    "chunk_rows": 64,
    "recompute": "block",
    "packs_base": true
   }
  ]
 },
 "data": {
  "fingerprint": "8cf5d3287c2cb7a89afa5f2a48343b7a",
  "num_train_rows": 6,
  "num_eval_rows": 2,
  "num_train_tokens": 263,
  "num_supervised_tokens": 95,
  "datasets": [
   "rows.jsonl: alpaca rows in rows.jsonl, told from the fields instruction, output."
  ],
  "num_rows": 9,
  "train": {
   "num_rows": 6,
   "num_examples": 6,
   "num_tokens": 263,
   "num_supervised": 95
  },
  "held_out": {
   "num_rows": 2,
   "num_examples": 2,
   "num_tokens": 87,
   "num_supervised": 31
  },
  "lengths": {
   "min": 43,
   "median": 44,
   "p90": 44,
   "p99": 44,
   "max": 44
  },
  "cutoff_len": 2048,
  "num_over_cutoff": 0,
  "num_shortened": 0,
  "num_cut_tokens": 0,
  "num_left_out": 1,
  "findings": {
   "empty_answer": 1
  },
  "left_out_rows": [
   "rows.jsonl:9: The answer is empty. Fill in output."
  ]
 },
 "plan": {
  "micro_batch_tokens": 10000
 },
 "timings": {
  "load_s": 0.031,
  "total_s": 2.703
 },
 "results": {
  "eval_loss": 5.675748425145303
 },
 "started": "2026-11-27T00:27:12+00:00",
 "ended": "2026-11-27T00:27:14+00:00"
}
"""


def read(folder: Path, **changes: Any) -> RunManifest:
    """Read WRITTEN with other values."""
    (folder / RUN_FILE).write_text(json.dumps(json.loads(WRITTEN) | changes), encoding="utf-8")
    return read_manifest(folder)


def test_a_run_of_today_is_read_and_written_alike_to_the_byte(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text(WRITTEN, encoding="utf-8")
    run = read_manifest(tmp_path)
    assert (run.arithmetic.threads, run.arithmetic.changes[0].recompute) == (1, "block")
    assert (run.data.num_left_out, run.data.findings) == (1, {"empty_answer": 1})
    write_manifest(tmp_path, run.changed(state="finished"))
    assert (tmp_path / RUN_FILE).read_text(encoding="utf-8") == WRITTEN


def test_every_key_that_was_written_is_a_field(tmp_path: Path) -> None:
    written = json.loads(WRITTEN)
    assert list(written["data"]) == list(DataRecord.model_fields)
    # Only a run that went on says where.
    assert [*written["arithmetic"], "resumes"] == list(ArithmeticRecord.model_fields)
    assert list(written["arithmetic"]["changes"][0]) == list(ChangeRecord.model_fields)
    run = read(tmp_path)
    assert not run.data.model_extra
    assert not run.arithmetic.model_extra


def test_how_a_step_is_computed_is_recorded_whole() -> None:
    names = {field.name for field in fields(StepPlan)}
    assert names < set(ArithmeticRecord.model_fields)
    assert names | {"step"} == set(ChangeRecord.model_fields)


@pytest.mark.parametrize(
    "recorded", [{}, {"num_rows": 9}, {"num_rows": 9, "num_dreams": 3, "left_out_rows": []}]
)
def test_what_another_version_recorded_stays_as_it_was(
    tmp_path: Path, recorded: dict[str, Any]
) -> None:
    run = read(tmp_path, data=recorded, arithmetic={"threads": 2, "colour": "red"})
    assert run.data.fingerprint is None
    assert (run.arithmetic.chunk_rows, run.arithmetic.recompute) == (256, "none")
    write_manifest(tmp_path, run.changed(state="failed"))
    again = json.loads((tmp_path / RUN_FILE).read_bytes())
    assert again["arithmetic"] == {"threads": 2, "colour": "red"}
    assert set(again["data"]) == set(recorded)
    assert run.model_dump()["arithmetic"] == {"threads": 2, "colour": "red"}


def test_a_recorded_value_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, data={"num_rows": "many"})
    assert caught.value.why.startswith("data.num_rows: ")


@pytest.mark.parametrize("name", ["started", "ended"])
def test_a_time_that_is_none_is_told(tmp_path: Path, name: str) -> None:
    record = {**json.loads(WRITTEN), name: "yesterday"}
    (tmp_path / RUN_FILE).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path)
    assert name in caught.value.why
