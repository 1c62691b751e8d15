"""The tutorial's command, flags unchanged, through the script that stands for llamafactory-cli."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from danlu.runs.manifest import read_manifest
from danlu.runs.metrics import read_metrics
from danlu.settings.resolve import resolve
from danlu.train.recipe import recipe_of
from danlu.train.settings import TrainSettings
from tests.helpers.source import ROOT

# Paths are the user's; everything else stands as in the tutorial.
FLAGS = """
    --stage sft
    --do_train
    --model_name_or_path starter
    --dataset distill_psychology-10k-r1
    --dataset_dir data
    --template qwen3
    --finetuning_type lora
    --output_dir saves/Qwen3-8B/lora/sft
    --overwrite_cache
    --overwrite_output_dir
    --cutoff_len 1024
    --preprocessing_num_workers 16
    --per_device_train_batch_size 2
    --per_device_eval_batch_size 1
    --gradient_accumulation_steps 8
    --lr_scheduler_type cosine
    --logging_steps 50
    --warmup_steps 20
    --save_steps 100
    --eval_steps 50
    --eval_strategy steps
    --load_best_model_at_end
    --learning_rate 5e-5
    --num_train_epochs 5.0
    --max_samples 1000
    --val_size 0.1
    --plot_loss
    --fp16
"""
# Fewer than the tutorial has: 115 steps show what its 285 would.
ROWS = 400
# The first test waits for the whole run, beside other programs for minutes.
pytestmark = [pytest.mark.timeout(900), pytest.mark.soak]


def write_data(folder: Path) -> None:
    """Four hundred short rows with reasoning, listed in a dataset_info.json."""
    folder.mkdir()
    rows = [
        {"instruction": f"What is {n} + 1?", "output": f"<think>\n{n} + 1\n</think>\n\n{n + 1}"}
        for n in range(ROWS)
    ]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    info = {"distill_psychology-10k-r1": {"file_name": "rows.json"}}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole tutorial on the starter model, with fewer rows."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    folder = tmp_path_factory.mktemp("tutorial")
    write_data(folder / "data")
    script = "llamafactory-cli train " + FLAGS.strip().replace("\n", " \\\n")
    (folder / "2-8B模型一键微调.sh").write_text(script + "\n", encoding="utf-8")
    danlu = folder / "bin"
    danlu.mkdir()
    (danlu / "danlu").write_text(f'#!/bin/sh\nexec {sys.executable} -m danlu.cli.main "$@"\n')
    (danlu / "danlu").chmod(0o755)
    scripts = folder / "scripts"
    shutil.copytree(ROOT / "scripts", scripts)
    path = f"{scripts}:{danlu}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "2-8B模型一键微调.sh", "--report", "false"],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stdout + done.stderr, encoding="utf-8")
    return folder / "saves/Qwen3-8B/lora/sft"


def fields(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values


def test_the_steps_are_those_of_llama_factory(run: Path) -> None:
    records = read_metrics(run)
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 116))
    assert [r["step"] for r in records if "eval_loss" in r] == [50, 100, 115]
    rates = {r["step"]: r["learning_rate"] for r in records if "loss" in r}
    assert rates[21] == max(rates.values()) == pytest.approx(5e-5)
    epochs = {r["step"]: r["epoch"] for r in records}
    assert (epochs[23], epochs[115]) == (1.0, 5.0)


def test_the_best_weights_are_the_result(run: Path) -> None:
    best = min((r["eval_loss"], r["step"]) for r in read_metrics(run) if "eval_loss" in r)[1]
    adapter = "adapter_model.safetensors"
    assert (run / adapter).read_bytes() == (run / f"checkpoint-{best}" / adapter).read_bytes()
    assert fields(run / "trainer_state.json")["best_global_step"] == best
    for step in (100, 115):
        assert (run / f"checkpoint-{step}").is_dir()


def test_what_stands_in_the_output_folder(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "all_results.json",
        "chat_template.jinja", "eval_results.json", "loss.png", "loss.svg", "metrics.jsonl",
        "run.json", "tokenizer.json", "tokenizer_config.json", "train_results.json",
        "trainer_log.jsonl", "trainer_state.json", "training_eval_loss.png", "training_loss.png",
    }  # fmt: skip
    for picture in ("loss.png", "training_loss.png", "training_eval_loss.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    train, evaluation = fields(run / "train_results.json"), fields(run / "eval_results.json")
    assert train.keys() >= {
        "epoch", "total_flos", "train_loss", "train_runtime", "train_samples_per_second",
        "train_steps_per_second",
    }  # fmt: skip
    assert evaluation.keys() >= {
        "epoch", "eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second",
    }  # fmt: skip
    assert fields(run / "all_results.json") == {**evaluation, **train}


def test_the_log_has_the_fields_that_scripts_read(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "trainer_log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "loss" in line]
    assert [line["current_steps"] for line in losses] == [50, 100]
    mean = [r["loss"] for r in read_metrics(run) if r.get("loss") and r["step"] <= 50]
    assert losses[0]["loss"] == pytest.approx(sum(mean) / 50, abs=1e-4)
    assert losses[0].keys() >= {
        "total_steps", "lr", "epoch", "percentage", "elapsed_time", "remaining_time",
    }  # fmt: skip
    assert {"loss", "eval_loss"}.isdisjoint(lines[-1])
    assert lines[-1]["percentage"] == 100.0
    history = fields(run / "trainer_state.json")["log_history"]
    assert history[0].keys() >= {"loss", "grad_norm", "learning_rate", "epoch", "step"}
    assert "train_runtime" in history[-1]


def test_what_is_chosen_or_ignored_is_said_and_recorded(run: Path) -> None:
    said = (run.parents[3] / "said").read_text(encoding="utf-8")
    assert "preprocessing_num_workers: no effect here" in said
    assert "per_device_eval_batch_size: no effect here" in said
    assert said.count("--fp16: ") == 1
    manifest = read_manifest(run)
    assert manifest.state == "finished"
    assert manifest.origins["learning_rate"] == "command line"
    assert manifest.origins["lora_rank"] == "default"
    assert (manifest.template, manifest.enable_thinking) == ("qwen3", True)
    assert manifest.data.num_train_rows == 360
    assert manifest.results["eval_loss"] > 0
    assert manifest.timings["total_s"] > manifest.timings["load_s"] > 0


def test_peft_loads_the_output_folder(run: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import danlu

    base = AutoModelForCausalLM.from_pretrained(Path(danlu.__file__).parent / "starter")
    model = PeftModel.from_pretrained(base, run)
    assert model.peft_config["default"].r == 8
    assert AutoTokenizer.from_pretrained(run).chat_template


def test_a_yaml_file_and_the_preset_say_the_same(tmp_path: Path) -> None:
    words = FLAGS.split()
    pairs = {}
    for index, word in enumerate(words):
        if word.startswith("--"):
            following = words[index + 1] if index + 1 < len(words) else "--"
            pairs[word[2:]] = "true" if following.startswith("--") else following
    file = tmp_path / "sft.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in pairs.items()), "utf-8")
    from_flags = resolve(TrainSettings, words, {}).values
    from_file = resolve(TrainSettings, [str(file), "max_steps=7"], {}).values
    assert from_file == from_flags.model_copy(update={"max_steps": 7})
    counts = {"num_train_rows": 900, "num_eval_rows": 100}
    preset = resolve(TrainSettings, ["--preset", "tutorial"], {}).values
    assert recipe_of(preset, **counts) == recipe_of(from_flags, **counts)
    assert recipe_of(preset, **counts).total_steps == 285
