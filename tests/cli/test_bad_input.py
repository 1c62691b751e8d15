"""Bad input: three lines (what, why, how to fix), the right exit code, nothing half written."""

from __future__ import annotations

import errno
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.files import disk
from danlu.files import os_errors as faults
from danlu.files.committed import verify
from danlu.files.lock import LOCK_FILE, FolderLock
from danlu.runs.checkpoints import list_checkpoints
from danlu.runs.manifest import read_manifest
from tests.helpers.faulty_disk import FillingDisk, RefusingDisk
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import leftovers, train_words, write_rows

Damage = Callable[[], None]
TRAIN = "train --model model --dataset rows.jsonl --output_dir out --max_steps 2"
GENERATE = "generate hello --max_new_tokens 2"
MERGE = "merge --adapter run --export_dir out"
MERGE_LONE = MERGE.replace("--adapter run", "--adapter lone") + " --model deeper"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, another one with more layers, one with other weights, rows, and a finished run."""
    folder = tmp_path_factory.mktemp("prepared")
    write_model_folder(folder / "model")
    write_model_folder(folder / "deeper", num_hidden_layers=3)
    write_model_folder(folder / "twin", seed=1)
    write_rows(folder / "rows.jsonl")
    words = train_words(folder / "model", folder / "rows.jsonl", folder / "run", max_steps=2)
    assert main(words) == 0
    return folder


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of one test: a copy of all that, to be damaged."""
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Everything a folder holds; an empty folder or a lock file is nothing."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_FILE)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def nothing() -> None:
    pass


def empty_model() -> None:
    shutil.rmtree("model")
    Path("model").mkdir()


def no_weights() -> None:
    Path("model/model.safetensors").unlink()


def no_tokenizer() -> None:
    Path("model/tokenizer.json").unlink()


def cut_weights() -> None:
    path = Path("model/model.safetensors")
    path.write_bytes(path.read_bytes()[:-100])


def garbled_weights() -> None:
    path = Path("model/model.safetensors")
    path.write_bytes(b"\xff" * 16 + path.read_bytes()[16:])


def garbled_config() -> None:
    Path("model/config.json").write_text('{"model_type": "qwen3",', encoding="utf-8")


def config_says(**fields: object) -> Damage:
    def change() -> None:
        path = Path("model/config.json")
        known = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**known, **fields}), encoding="utf-8")

    return change


def line_3_is(text: str) -> Damage:
    def change() -> None:
        path = Path("rows.jsonl")
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_bytes(
            "\n".join([*lines[:2], text, *lines[3:]]).encode("utf-8", "surrogateescape")
        )

    return change


def no_rows() -> None:
    Path("rows.jsonl").write_text("\n", encoding="utf-8")


def file_called_out() -> None:
    Path("out").write_text("a file", encoding="utf-8")


def something_in_out() -> None:
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("mine", encoding="utf-8")


def lone_adapter() -> None:
    """Make the adapter one from elsewhere: without the run that would prove its base."""
    shutil.copytree("run/final", "lone")


def cut_adapter() -> None:
    path = Path("run/final/adapter_model.safetensors")
    path.write_bytes(path.read_bytes()[:-100])


def altered_adapter() -> None:
    path = Path("run/final/adapter_model.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


NO_MODEL = "nowhere does not exist|config.json|--model starter"
NOT_A_MODEL = "not a model folder|no config.json|download"
BAD_WEIGHTS = "model.safetensors||"
NO_EXPERTS = "do not match|experts.0.gate_proj|config.json"
TOO_MANY = "config.json|num_experts_per_tok is 129|again"
ALTERED = "adapter_model.safetensors|sha256|"
LLAMA = "not supported|llama|Qwen3"
OTHER_BASE = "another base model|trained on model|/model"
# what is wrong, how it came about, the command, its exit code, and a piece of each line
CASES = [
    ("missing model", nothing, f"{TRAIN} --model nowhere", 2, NO_MODEL),
    ("missing model", nothing, f"{GENERATE} --model nowhere", 2, NO_MODEL),
    ("missing model", nothing, f"{MERGE} --model nowhere", 2, NO_MODEL),
    ("missing model", nothing, "chat --model nowhere", 2, NO_MODEL),
    ("missing model", nothing, "info nowhere", 2, NO_MODEL),
    ("empty model folder", empty_model, TRAIN, 2, NOT_A_MODEL),
    ("empty model folder", empty_model, f"{GENERATE} --model model", 2, NOT_A_MODEL),
    ("no weights", no_weights, TRAIN, 2, "holds no weights|safetensors|"),
    ("no tokenizer", no_tokenizer, TRAIN, 2, "no tokenizer|tokenizer.json|copy"),
    ("corrupt config", garbled_config, TRAIN, 5, "config.json|line 1|again"),
    ("cut weights", cut_weights, TRAIN, 5, BAD_WEIGHTS),
    ("cut weights", cut_weights, f"{GENERATE} --model model", 5, BAD_WEIGHTS),
    ("cut weights", cut_weights, f"{MERGE} --model model", 5, BAD_WEIGHTS),
    ("garbled weights", garbled_weights, TRAIN, 5, BAD_WEIGHTS),
    ("other weights", config_says(hidden_size=128), TRAIN, 5, BAD_WEIGHTS),
    ("other tokenizer", config_says(vocab_size=64), TRAIN, 5, "belong together|.json|came with"),
    ("architecture", config_says(model_type="llama"), TRAIN, 2, LLAMA),
    ("architecture", config_says(model_type="llama"), f"{GENERATE} --model model", 2, LLAMA),
    ("experts", config_says(model_type="qwen3_moe"), TRAIN, 5, NO_EXPERTS),
    ("experts", config_says(model_type="qwen3_moe", num_experts_per_tok=129), TRAIN, 5, TOO_MANY),
    ("other base", nothing, f"{GENERATE} --adapter run --model twin", 5, OTHER_BASE),
    ("other base", nothing, f"{MERGE} --model twin", 5, OTHER_BASE),
    ("other shapes", lone_adapter, MERGE_LONE, 5, "base|fit|/model"),
    ("no adapter", nothing, f"{GENERATE} --adapter model", 2, "not an adapter|config.json|run"),
    ("cut adapter", cut_adapter, f"{GENERATE} --adapter run", 5, "adapter_model.safetensors||"),
    ("altered adapter", altered_adapter, f"{GENERATE} --adapter run", 5, ALTERED),
    ("altered adapter", altered_adapter, MERGE, 5, ALTERED),
    ("broken row", line_3_is('{"instruction": "x", '), TRAIN, 5, "1 of 40|rows.jsonl:3|"),
    ("row not UTF-8", line_3_is("\udcc4\udce3"), TRAIN, 5, "rows|:3: The text is not UTF-8|"),
    ("missing data", nothing, f"{TRAIN} --dataset no.jsonl", 2, "no.jsonl|no such file|--dataset"),
    ("empty data", no_rows, TRAIN, 5, "no rows|rows.jsonl|instruction"),
    ("no rows left", nothing, f"{TRAIN} --cutoff_len 4", 5, "are left|40 are over 4|--cutoff_len"),
    ("all held out", nothing, f"{TRAIN} --val_size 40", 5, "are left|40 are held out|--val_size"),
    ("a file in the way", file_called_out, TRAIN, 2, "out|exists|where a folder should be"),
    ("a file in the way", file_called_out, MERGE, 2, "out||--export_dir"),
    ("a full folder", something_in_out, TRAIN, 2, "is not empty|mix|--overwrite_output_dir"),
    ("a full folder", something_in_out, MERGE, 2, "is not empty|overwrites|--export_dir"),
    ("nothing to resume", nothing, f"{TRAIN} --resume_from_checkpoint true", 2, "run|run.json|"),
    ("unknown key", nothing, f"{TRAIN} --lora_rnak 8", 2, "lora_rnak||lora_rank"),
    (
        "range",
        nothing,
        f"{TRAIN} --cutoff_len 0",
        2,
        "'0'|line; it must be 1 or more|cutoff_len as",
    ),
    ("range", nothing, f"{TRAIN} --seed -1", 2, "'-1'|line; it must be from 0|Give seed as INT: "),
    ("range", nothing, "data check rows.jsonl --seed -1", 2, "'-1'|from 0|Give seed as INT: "),
    ("range", nothing, "eval run --report_seconds 0", 2, "'0'|more than 0|Give report_seconds as"),
    ("range", nothing, f"{GENERATE} --model model --top_p 2", 2, "'2'|and at most 1|Give top_p as"),
    ("range", nothing, "serve --port 70000", 2, "'70000'|line; it must be from 0 to 65535|port as"),
    ("range", nothing, "serve --max_queue -1", 2, "'-1'|; it must be 0 or more|Give max_queue as"),
]


@pytest.mark.parametrize(
    ("damage", "command", "code", "pieces"),
    [pytest.param(*case, id=f"{name}: {case[1].split()[0]}") for name, *case in CASES],
)
def test_bad_input_is_explained_and_writes_nothing(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
    command: str,
    code: int,
    pieces: str,
) -> None:
    damage()
    before = contents(here)
    assert main(command.split()) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3, lines
    for line, piece in zip(lines, pieces.split("|"), strict=True):
        assert line.strip()
        assert piece in line
    assert contents(here) == before
    assert leftovers(here) == []


def test_every_unusable_row_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line_3_is('{"instruction": "x", "output": ""}')()
    before = contents(here)
    assert main(TRAIN.split()) == 5
    what, *why, fix = capsys.readouterr().err.splitlines()
    assert "1 of 40 rows" in what
    assert "rows.jsonl:3" in why[0]
    assert "Correct or remove" in fix
    assert contents(here) == before


def test_a_folder_in_use_is_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FolderLock(here / "run"):
        before = contents(here)
        for words in ("--overwrite_output_dir", "--resume_from_checkpoint true"):
            assert main(f"{TRAIN} --output_dir run {words}".split()) == 2
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) == 3
            assert "in use" in lines[0]
        assert contents(here) == before


@pytest.mark.parametrize("command", [TRAIN, MERGE], ids=["train", "merge"])
def test_a_folder_that_refuses_writing(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    before = contents(here)
    monkeypatch.setattr(disk, "DISK", RefusingDisk(errno.EACCES, "make_folder", "create"))
    assert main(command.split()) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert str(here) in lines[0]
    assert "permission denied" in lines[1]
    assert contents(here) == before


@pytest.mark.parametrize("room_bytes", [0, 1_800, 30_000, 400_000])
def test_training_on_a_disk_that_fills_up(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    room_bytes: int,
) -> None:
    words = train_words(
        here / "model", here / "rows.jsonl", here / "out", save_steps=2, plot_loss="true"
    )
    before = contents(here)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "DISK", FillingDisk(room_bytes))
        assert main(words) == 4
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert str(here / "out") in lines[0]
    assert "are free" in lines[1]
    assert leftovers(here) == []
    saved = list_checkpoints(here / "out")
    for checkpoint in saved:
        verify(checkpoint.path)
    assert not (here / "out" / "final").exists()
    assert contents(here) | before == contents(here)
    again = "--resume_from_checkpoint" if saved else "--overwrite_output_dir"
    assert main([*words, again, "true"]) == 0
    assert read_manifest(here / "out").state == "finished"


def test_the_error_that_ended_a_run_is_the_one_shown(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train_words(here / "model", here / "rows.jsonl", here / "out", save_steps=2)
    monkeypatch.setattr(disk, "DISK", FillingDisk(30_000))
    assert main(words) == 4
    # The first failure, at checkpoint-2, is only reported; the second ends the run.
    assert "checkpoint-4" in capsys.readouterr().err.splitlines()[0]


def test_merging_on_a_full_disk(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(here)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "DISK", FillingDisk(100_000))
        assert main(MERGE.split()) == 4
        assert len(capsys.readouterr().err.splitlines()) == 3
    with monkeypatch.context() as patch:
        patch.setattr(faults, "free_bytes", lambda _path: 1000)
        assert main(MERGE.split()) == 4
        assert len(capsys.readouterr().err.splitlines()) == 3
    assert contents(here) == before
    assert not (here / "out").exists()
    assert leftovers(here) == []


def test_a_prompt_that_is_not_utf8(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO("你好".encode("gbk")), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["generate", "--model", "model"]) == 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "is not UTF-8" in lines[0]


@pytest.mark.parametrize(
    "words",
    [
        ["chat", "{}"],
        ["chat", "--adapter", "{}"],
        ["generate", "--model", "{}", "hello"],
        ["eval", "{}"],
        ["export", "{}"],
        ["info", "{}"],
        ["merge", "{}"],
        ["rm", "{}"],
        ["runs", "show", "{}"],
        ["serve", "{}"],
        ["train", "--dataset", "rows.jsonl", "--output_dir", "{}"],
        ["use", "{}"],
    ],
    ids=" ".join,
)
def test_a_question_in_the_place_of_a_name_is_no_bug(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """More than 255 bytes: no part of a path is as long, and the system says so by an error."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", 2)
    assert main([word.format("你好，请问" * 40) for word in words]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert said[0].startswith("There is n")
