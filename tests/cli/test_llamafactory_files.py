"""Files and scripts written for LLaMA-Factory's export, chat and api run as they are."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.hub.prompting import Prompting, prompting_of_model
from danlu.hub.template_default import ANSWERS_AT_ONCE, TEMPLATE_FILE
from danlu.web.built_page import FOLDER
from tests.helpers.llamafactory import FILES
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import free_port, train_words, write_rows
from tests.helpers.source import ROOT

EXPORT = """\
### model
model_name_or_path: model
adapter_name_or_path: run
template: qwen3
trust_remote_code: true
finetuning_type: lora

### export
export_dir: merged
export_size: 5
export_device: cpu
export_legacy_format: false
"""
INFERENCE = """\
model_name_or_path: model
adapter_name_or_path: run
template: qwen3
finetuning_type: lora
infer_backend: huggingface
infer_dtype: float32
trust_remote_code: true
vllm_maxlen: 4096
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llamafactory")
    write_model_folder(folder / "model")
    shutil.copy(ROOT / "src/danlu/starter" / TEMPLATE_FILE, folder / "model")
    (folder / "export.yaml").write_text(EXPORT, encoding="utf-8")
    (folder / "inference.yaml").write_text(INFERENCE, encoding="utf-8")
    rows = write_rows(folder / "rows.jsonl")
    words = train_words(
        folder / "model", rows, folder / "run", max_steps=2, save_steps=1, enable_thinking="false"
    )
    assert main(words) == 0
    return folder


@pytest.fixture
def here(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(prepared)
    return prepared


def test_an_export_file_merges(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "export.yaml"]) == 0
    said = capsys.readouterr()
    for name in ("trust_remote_code", "finetuning_type", "export_device"):
        assert said.err.count(name) == 1
    assert "export_legacy_format" not in said.err
    assert "export_size" not in said.err  # it is honoured
    assert "The merge is right: the merged model answers like base and adapter" in said.out
    assert "Template qwen3, thinking off: recorded" in said.out
    # How it was trained: for danlu, and for programs that read the template.
    assert prompting_of_model("merged") == Prompting(template="qwen3", enable_thinking=False)
    assert (here / "merged" / TEMPLATE_FILE).read_text("utf-8").startswith(ANSWERS_AT_ONCE)
    assert (here / "run" / TEMPLATE_FILE).read_text("utf-8").startswith(ANSWERS_AT_ONCE)
    generation = json.loads((here / "merged" / "generation_config.json").read_text("utf-8"))
    assert (generation["temperature"], generation["top_p"]) == (0.7, 0.8)


def test_a_merged_base_model_ends_its_answers_everywhere(here: Path, tmp_path: Path) -> None:
    """Base models name another end token: other programs would go on after the answer."""
    base = tmp_path / "base"
    shutil.copytree(here / "model", base, ignore=shutil.ignore_patterns("generation_config.json"))
    (base / "manifest.json").unlink()
    config = json.loads((base / "config.json").read_text("utf-8"))
    end, other = config["eos_token_id"], config["eos_token_id"] - 1
    (base / "config.json").write_text(json.dumps({**config, "eos_token_id": other}), "utf-8")
    words = ["--adapter", "run", "--model", str(base), "--export_dir", str(tmp_path / "merged")]
    assert main(["merge", *words]) == 0
    from transformers import GenerationConfig

    assert GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id == [end, other]


def test_the_template_of_an_export_file_is_honoured(here: Path) -> None:
    words = ["export_dir=other", "template=qwen3_nothink", "enable_thinking=true"]
    assert main(["merge", "export.yaml", *words]) == 0
    assert prompting_of_model("other").template == "qwen3_nothink"
    assert not (here / "other" / TEMPLATE_FILE).read_text("utf-8").startswith(ANSWERS_AT_ONCE)


def test_adapters_of_an_export_file_are_merged_in_turn(here: Path) -> None:
    words = ["export_dir=twice", "adapter_name_or_path=run,run/checkpoint-1=0.5"]
    assert main(["merge", "export.yaml", *words]) == 0
    report = json.loads((here / "twice" / "merge_report.json").read_text("utf-8"))
    assert report["weights"] == {
        str(here / "run" / "final"): 1.0,
        str(here / "run" / "checkpoint-1"): 0.5,
    }


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        ("export_quantization_bit=4", "export_quantization_bit 4|command line|--quantization int8"),
        ("adapter_name_or_path=run,more", "more is not an adapter folder|adapter_config|Point"),
        ("adapter_name_or_path=run=0", "0 is no factor|other than 0|--adapter run=0.5"),
        ("export_hub_model_id=me/it", "export_hub_model_id me/it||uploads nothing"),
    ],
)
def test_what_a_merge_cannot_do_is_refused_by_name(
    here: Path, capsys: pytest.CaptureFixture[str], words: str, pieces: str
) -> None:
    assert main(["merge", "export.yaml", "export_dir=never", words]) == 2
    lines = capsys.readouterr().err.splitlines()[-3:]
    for line, piece in zip(lines, pieces.split("|"), strict=True):
        assert piece in line
    assert not (here / "never").exists()


@pytest.mark.usefixtures("here")
def test_an_inference_file_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert main(["chat", "inference.yaml", "max_new_tokens=3"]) == 0
    said = capsys.readouterr()
    assert "infer_backend, vllm_maxlen: no effect here" in said.err
    assert "(float32)" in said.out  # infer_dtype is honoured
    assert main(["chat", "inference.yaml", "quantization_bit=4"]) == 2
    assert "--quantization int8 or int4" in capsys.readouterr().err


PREDICT = """\
model_name_or_path: model
adapter_name_or_path: run
stage: sft
do_predict: true
finetuning_type: lora
eval_dataset: rows.jsonl
template: qwen3
cutoff_len: 2048
max_samples: 2
overwrite_cache: true
output_dir: predict
overwrite_output_dir: true
per_device_eval_batch_size: 1
predict_with_generate: true
ddp_timeout: 180000000
"""


def test_a_predict_file_is_scored(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows are those of eval_dataset; a second time its answers stay as they are."""
    (here / "predict.yaml").write_text(PREDICT, encoding="utf-8")
    assert main(["eval", "predict.yaml", "max_new_tokens=2"]) == 0
    assert "per_device_eval_batch_size" in capsys.readouterr().err
    figures = json.loads((here / "predict" / "predict_results.json").read_text("utf-8"))
    assert (figures["predict_samples"], figures["adapter"]) == (2, str(here / "run" / "final"))
    assert main(["eval", "predict.yaml"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["train", "predict.yaml"]) == 2
    assert "danlu eval FILE.yaml" in capsys.readouterr().err


def test_a_training_file_is_checked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = FILES["train"].replace("dataset: identity", "dataset: rows.jsonl")
    (here / "train.yaml").write_text(text, encoding="utf-8")
    assert main(["data", "check", "train.yaml"]) == 0
    said = capsys.readouterr()
    assert "learning_rate" in said.err
    assert "only training uses it" in said.err
    assert "40" in said.out


@pytest.mark.usefixtures("here")
def test_danlus_own_export_says_that_such_a_file_merges(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["export", "export.yaml"]) == 2
    command = shlex.split(capsys.readouterr().err.splitlines()[-1].partition(": ")[2])
    assert command[:4] == ["danlu", "merge", "--adapter", "run"]


def script(here: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start scripts/llamafactory-cli, for which this Python is danlu."""
    bin_folder = here / "bin"
    bin_folder.mkdir(exist_ok=True)
    (bin_folder / "danlu").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m danlu.cli.main "$@"\n', encoding="utf-8"
    )
    (bin_folder / "danlu").chmod(0o755)
    scripts = here / "scripts"
    if not scripts.is_dir():
        shutil.copytree(ROOT / "scripts", scripts)
    path = f"{bin_folder}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(scripts / "llamafactory-cli"), *words],
        env={**os.environ, "PATH": path, "DANLU_LANG": "en", "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script needs bash")
def test_api_serves_under_the_name_and_with_the_key_of_the_environment(here: Path) -> None:
    port, key = free_port(), "s3cret-of-the-test"
    variables = {"API_PORT": port, "API_KEY": key, "API_MODEL_NAME": "gpt-3.5-turbo"}
    with script(here, "api", "inference.yaml", **variables) as process:
        try:
            assert process.stdout is not None
            assert any(": ready" in line for line in process.stdout)
            command_line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert b"serve" in command_line
            assert key.encode() not in command_line
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/chat/completions",
                data=json.dumps(
                    {
                        "model": "gpt-3.5-turbo",
                        "messages": [{"role": "user", "content": "hello"}],
                        "max_tokens": 3,
                    }
                ).encode(),
                headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as reply:
                answer = json.load(reply)
            # The adapter answers under that name, as in LLaMA-Factory; the base keeps its own.
            assert answer["model"] == "gpt-3.5-turbo"
        finally:
            process.terminate()
            _out, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert key not in errors


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script needs bash")
@pytest.mark.skipif(not (FOLDER / "index.html").exists(), reason="the studio's page is not built")
@pytest.mark.soak
@pytest.mark.parametrize("words", [("webui",), ("webchat", "inference.yaml")])
def test_pages_in_the_browser_are_the_studio(here: Path, words: tuple[str, ...]) -> None:
    port = free_port()
    variables = {"GRADIO_SERVER_PORT": port, "DANLU_MODEL": "starter" if len(words) == 1 else ""}
    with script(here, *words, **variables) as process:
        try:
            assert process.stdout is not None
            assert any(f"browser: http://127.0.0.1:{port}/" in line for line in process.stdout)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as reply:
                assert b"<title>" in reply.read()
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script needs bash")
@pytest.mark.parametrize(
    ("words", "said"),
    [("version", "danlu "), ("eval --help", "score a model"), ("export --help", "Merge"),
     ("train --help", "Fine-tune"), ("chat --help", "Talk")],
)  # fmt: skip
def test_each_command_has_its_counterpart(here: Path, words: str, said: str) -> None:
    with script(here, *words.split()) as process:
        out, _errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said in out
