"""Data sets on a hub, with stand-ins for the hubs' libraries: no test needs a network."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from danlu.data.dataset_info import Entry
from danlu.data.datasets import Row, find_datasets
from danlu.data.reading import hubs
from danlu.data.reading.hubs import hub_files
from danlu.errors import EnvironmentFault, UsageError
from tests.helpers.data_files import json_lines, parquet_table

ROWS = [{"instruction": "a", "output": "b"}]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A downloaded repository as `datasets` pushes them, with two subsets."""
    root = tmp_path / "repository"
    for subset in ("en", "zh"):
        (root / "data" / subset).mkdir(parents=True)
        for split in ("train", "test"):
            parquet_table(root / "data" / subset / f"{split}-00000-of-00001.parquet", ROWS)
    (root / "plain").mkdir()
    json_lines(root / "plain" / "all.jsonl", ROWS)
    (root / "sft").mkdir()
    for split in ("train_sft", "train_gen", "test_sft"):
        parquet_table(root / "sft" / f"{split}-00000-of-00002-abc.parquet", ROWS)
    (root / "saved" / "train").mkdir(parents=True)
    (root / "saved" / "test").mkdir()
    for split in ("train", "test"):
        parquet_table(root / "saved" / split / "data-00000-of-00001.parquet", ROWS)
    (root / "README.md").write_text("a card", encoding="utf-8")
    return root


@pytest.fixture
def asked(repository: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bool]]:
    """What the stand-in libraries were asked for: hub, repository, whether from the cache only."""
    calls: list[tuple[str, str, bool]] = []

    def from_hugging_face(name: str, **options: Any) -> str:
        assert options["repo_type"] == "dataset"
        assert "*.parquet" in options["allow_patterns"]
        calls.append(("hf", name, options["local_files_only"]))
        return str(repository)

    def from_modelscope(name: str, **options: Any) -> str:
        assert "*.parquet" in options["allow_patterns"]
        calls.append(("ms", name, False))
        return str(repository)

    for library, function, snapshot in (
        ("huggingface_hub", "snapshot_download", from_hugging_face),
        ("modelscope", "dataset_snapshot_download", from_modelscope),
    ):
        module = ModuleType(library)
        setattr(module, function, snapshot)
        monkeypatch.setitem(sys.modules, library, module)
    monkeypatch.delenv("USE_MODELSCOPE_HUB", raising=False)
    monkeypatch.setattr(hubs, "_why_unreachable", lambda _address: None)
    return calls


def names(files: tuple[Path, ...] | None, repository: Path) -> list[str]:
    assert files is not None
    return [str(file.relative_to(repository)) for file in files]


@pytest.mark.parametrize(
    ("hf", "ms", "variable", "expected"),
    [
        ("o/hf", None, "", ("hf", "o/hf", False)),
        ("o/hf", "o/ms", "", ("hf", "o/hf", False)),
        ("o/hf", "o/ms", "1", ("ms", "o/ms", False)),
        (None, "o/ms", "", ("ms", "o/ms", False)),
        ("o/hf", None, "true", ("hf", "o/hf", False)),
    ],
)
def test_the_hub_is_chosen_as_in_llamafactory(
    asked: list[tuple[str, str, bool]],
    monkeypatch: pytest.MonkeyPatch,
    hf: str | None,
    ms: str | None,
    variable: str,
    expected: tuple[str, str, bool],
) -> None:
    monkeypatch.setenv("USE_MODELSCOPE_HUB", variable)
    hub_files("mine", Entry(hf_hub_url=hf, ms_hub_url=ms, folder="plain"))
    assert asked == [expected]


@pytest.mark.usefixtures("asked")
def test_folder_subset_and_split_choose_the_files(repository: Path) -> None:
    def chosen(**options: Any) -> list[str]:
        return names(hub_files("mine", Entry(hf_hub_url="o/n", **options)), repository)

    assert hub_files("mine", Entry(file_name="a.json")) is None
    assert chosen(subset="zh") == ["data/zh/train-00000-of-00001.parquet"]
    assert chosen(folder="data/en", split="test") == ["data/en/test-00000-of-00001.parquet"]
    assert chosen(folder="plain") == ["plain/all.jsonl"]
    assert chosen(folder="sft", split="train_sft") == ["sft/train_sft-00000-of-00002-abc.parquet"]
    assert chosen(folder="saved") == ["saved/train/data-00000-of-00001.parquet"]
    with pytest.raises(UsageError, match="no files of the split train"):
        chosen(folder="sft")
    with pytest.raises(UsageError, match="no files of the split dev") as caught:
        chosen(folder="data", split="dev")
    assert "en/test-00000-of-00001.parquet" in caught.value.why
    with pytest.raises(UsageError, match="no files"):
        chosen(folder="plain", split="test")
    with pytest.raises(UsageError, match="no files"):
        chosen(folder="nowhere")


@pytest.mark.usefixtures("asked")
def test_rows_from_a_hub(tmp_path: Path) -> None:
    info = '{"mine": {"hf_hub_url": "o/n", "folder": "data", "formatting": "alpaca"}}'
    (tmp_path / "dataset_info.json").write_text(info, encoding="utf-8")
    (data,) = find_datasets("mine", tmp_path, max_samples=None, seed=0)
    assert [isinstance(row, Row) for row in data.rows()] == [True, True]


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("huggingface_hub", "modelscope"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(EnvironmentFault, match="Hugging Face") as caught:
        hub_files("mine", Entry(hf_hub_url="o/n"))
    assert caught.value.fix == "pip install huggingface_hub"
    with pytest.raises(EnvironmentFault, match="ModelScope") as caught:
        hub_files("mine", Entry(ms_hub_url="o/n"))
    assert caught.value.fix == "pip install modelscope"


def test_without_network_an_earlier_download_is_used(
    asked: list[tuple[str, str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "_why_unreachable", lambda _address: "no network")
    hub_files("mine", Entry(hf_hub_url="o/n", folder="plain"))
    assert asked == [("hf", "o/n", True)]
    with pytest.raises(
        EnvironmentFault, match="o/n could not be downloaded from ModelScope"
    ) as got:
        hub_files("mine", Entry(ms_hub_url="o/n"))
    assert got.value.why == "no network"
    assert "modelscope download --dataset o/n --local_dir n" in got.value.fix
    assert len(asked) == 1


@pytest.mark.usefixtures("asked")
def test_what_the_library_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class GatedRepo(Exception):
        pass

    def refuse(name: str, **_options: Any) -> str:
        raise GatedRepo(f"Access to {name} is restricted.\nA long trace")

    monkeypatch.setattr(sys.modules["huggingface_hub"], "snapshot_download", refuse)
    with pytest.raises(EnvironmentFault, match="o/n could not be downloaded") as caught:
        hub_files("mine", Entry(hf_hub_url="o/n"))
    assert caught.value.why == "Access to o/n is restricted."
    assert "hf download o/n --repo-type dataset --local-dir n" in caught.value.fix


class _Refuses(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_words: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Refuses) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_whether_a_hub_answers(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert hubs._why_unreachable(server) is None
    for address in ("http://127.0.0.1:9", "no address"):
        said = hubs._why_unreachable(address)
        assert said is not None
        assert address in said


def test_a_hub_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(hubs, "_REACH_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert hubs._why_unreachable(f"http://127.0.0.1:{silent.getsockname()[1]}") is not None
