"""Model and run files changed at random: an error of three lines or an answer, never a mistake."""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from danlu.cli.main import main
from danlu.runs.manifest import RUN_FILE, BaseRecord, RunManifest, write_manifest
from danlu.weights.sharded import INDEX_FILE, SINGLE_FILE
from tests.helpers.models.model_folder import write_model_folder

WEIGHTS = "model-00001-of-00001.safetensors"
FILES = (
    *("config.json", "generation_config.json", "tokenizer.json", RUN_FILE, "merge_report.json"),
    *(INDEX_FILE, WEIGHTS),
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 10**18, 10**400, 1e308, "", "x", "9" * 300, "\u202e\n", "\ud800"),
    *([], [[]], {}, {"a": {}}, float("inf"), float("nan"), [None], ["a", 1]),
)
BYTES = (b"", b"[" * 100_000, b"\xff", b"\0", b'{"a":', b"1e999")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model_folder(tmp_path_factory.mktemp("model") / "model")
    (folder / SINGLE_FILE).rename(folder / WEIGHTS)
    header, _data = header_and_data((folder / WEIGHTS).read_bytes())
    names = [name for name in json.loads(header) if name != "__metadata__"]
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": dict.fromkeys(names, WEIGHTS)}))
    (folder / "merge_report.json").write_text('{"template": "qwen3", "enable_thinking": true}')
    base = BaseRecord(name="model", path=str(folder), fingerprint="0")
    run = RunManifest(state="finished", base=base, template="qwen3", enable_thinking=None)
    (folder / "run").mkdir()
    write_manifest(folder / "run", run)
    return folder


def header_and_data(content: bytes) -> tuple[bytes, bytes]:
    """Divide a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


def mutate(path: Path, draw: random.Random) -> None:
    """Put something else in the place of one field, of a part of the bytes, or of all of them."""
    content = path.read_bytes()
    kind = draw.choice(("field", "field", "field", "part", "whole"))
    if kind == "whole":
        path.write_bytes(draw.choice(BYTES))
    elif path.name == WEIGHTS:
        header, data = header_and_data(content)
        changed = mutated_json(header, kind, draw)
        size = len(changed) if draw.random() < 0.9 else draw.choice((0, 1, len(header), 2**63))
        path.write_bytes(size.to_bytes(8, "little") + changed + data)
    else:
        path.write_bytes(mutated_json(content, kind, draw))


def mutated_json(content: bytes, kind: str, draw: random.Random) -> bytes:
    if kind == "part":
        start = draw.randrange(len(content))
        return content[:start] + draw.choice(BYTES) + content[start + 3 :]
    fields = json.loads(content)
    target = fields
    while target:
        key = draw.choice(sorted(target) if isinstance(target, dict) else range(len(target)))
        if isinstance(target, dict) and draw.random() < 0.1:
            target[draw.choice([value for value in VALUES if isinstance(value, str)])] = target.pop(
                key
            )
            break
        if not isinstance(target[key], dict | list) or draw.random() < 0.4:
            target[key] = draw.choice(VALUES)
            break
        target = target[key]
    return json.dumps(fields).encode()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def outcomes(model: Path, folder: Path, seeds: range, capsys: Any) -> None:
    for seed in seeds:
        draw = random.Random(seed)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(model, folder)
        name = draw.choice(FILES)
        mutate(folder / "run" / name if name == RUN_FILE else folder / name, draw)
        shown = str(folder / "run") if name == RUN_FILE else str(folder)
        generate = ["generate", "--model", str(folder), "hello", "--max_new_tokens", "1"]
        for words in (["info", shown], [*generate, "--device", "cpu", "--dtype", "float32"]):
            seconds, peak = time.process_time(), peak_bytes()
            code = main(words)
            error = capsys.readouterr().err
            assert time.process_time() - seconds < 10, (seed, name, words[0])
            assert peak_bytes() - peak < 1 << 30, (seed, name, words[0])
            assert code in (0, 2, 3, 4, 5), (seed, name, words[0], error)
            if code:
                assert len(error.splitlines()) == 3, (seed, name, words[0], error)


def test_no_change_of_a_file_is_a_mistake(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes(model, tmp_path / "changed", range(40), capsys)


@pytest.mark.soak
def test_no_change_of_a_file_is_a_mistake_for_long(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes(model, tmp_path / "changed", range(1000, 2000), capsys)
