"""Settings from flags, files and environment: who wins, what is refused, what is shown."""

from __future__ import annotations

import io
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import model_validator

from danlu.errors import Shown, UsageError
from danlu.settings.resolve import Resolved, resolve
from danlu.settings.schema import Settings, option
from danlu.settings.show import help_text, read_settings, settings_text
from danlu.train.settings import TrainSettings


class Example(Settings):
    """Do an example."""

    model_name_or_path: str = option("starter", "a model", aliases=("model",), position=0)
    prompt: str = option("", "a prompt", position=1)
    do_train: bool = option(False, "train")
    enable_thinking: bool | None = option(True, "thoughts")
    resume: bool | str = option(False, "true, or a folder")
    dataset: tuple[str, ...] = option((), "files")
    sizes: tuple[int, ...] | None = option(None, "sizes")
    lora_rank: int = option(8, "rank")
    alpha: float | None = option(None, "alpha")
    learning_rate: float = option(1e-4, "rate")
    kind: Literal["lora", "full"] = option("lora", "what")

    @model_validator(mode="after")
    def _rank_fits(self) -> Example:
        if self.kind == "full" and self.alpha is not None:
            raise ValueError("alpha is for lora only")
        return self


def read(*words: str, **environ: str) -> Example:
    return resolve(Example, words, environ).values


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--do_train", {"do_train": True}),
        ("--do_train false", {"do_train": False}),
        ("--do-train=no", {"do_train": False}),
        ("--do_train 0 --lora-rank 4", {"do_train": False, "lora_rank": 4}),
        ("--do_train my_model", {"do_train": True, "model_name_or_path": "my_model"}),
        ("--enable_thinking null m", {"enable_thinking": None, "model_name_or_path": "m"}),
        ("--do_train none", {"do_train": True, "model_name_or_path": "none"}),
        ("--dataset a b --dataset c,d --dataset=e", {"dataset": ("a", "b", "c", "d", "e")}),
        ("--lora_rank 2 --lora_rank 4", {"lora_rank": 4}),
        ("--resume", {"resume": True}),
        ("--resume --do_train", {"resume": True, "do_train": True}),
        ("--resume false", {"resume": False}),
        ("--resume out/checkpoint-5", {"resume": "out/checkpoint-5"}),
        ("--model a", {"model_name_or_path": "a"}),
        ("--model a --model_name_or_path b", {"model_name_or_path": "b"}),
        ("a b", {"model_name_or_path": "a", "prompt": "b"}),
        ("a -- --b", {"model_name_or_path": "a", "prompt": "--b"}),
        ("--prompt a=b x=y", {"prompt": "a=b", "model_name_or_path": "x=y"}),
        ("--prompt=--x=1", {"prompt": "--x=1"}),
        ("--prompt -", {"prompt": "-"}),
        ("--dataset a,b", {"dataset": ("a", "b")}),
        ("--dataset a b --do_train", {"dataset": ("a", "b"), "do_train": True}),
        ("--sizes 1 -2", {"sizes": (1, -2)}),
        ("--sizes none", {"sizes": None}),
        ("--lora_rank -1 --alpha -.5", {"lora_rank": -1, "alpha": -0.5}),
        ("--learning_rate 2e-5 --alpha none", {"learning_rate": 2e-5, "alpha": None}),
    ],
)
def test_words(words: str, expected: dict[str, Any]) -> None:
    assert read(*words.split()).model_dump(exclude_unset=True) == expected


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--lora_rnk 4", ["lora_rnk", "command line", "Did you mean lora_rank?"]),
        ("--modle x", ["Did you mean model?"]),
        ("-lora_rank 4", ["Did you mean lora_rank?"]),
        ("--zzzzzz 4", ["zzzzzz", "--help"]),
        ("--lora_rank", ["--lora_rank needs a value"]),
        ("--lora_rank --do_train", ["--lora_rank needs a value"]),
        ("--lora_rank x", ["'x'", "lora_rank", "command line", "INT"]),
        ("--lora_rank 1.5", ["'1.5'"]),
        ("--lora_rank true", ["'true'"]),
        ("--learning_rate nan", ["'nan'"]),
        ("--kind qlora", ["'qlora'", "lora|full"]),
        ("--sizes 1,x", ["'1,x'", "sizes"]),
        ("a b c", ["'c'"]),
        ("--kind full --alpha 1", ["do not fit together", "alpha is for lora only"]),
    ],
)
def test_refused_words(words: str, parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        read(*words.split())
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) == 3


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "train.yaml"
    path.write_text(text)
    return str(path)


def test_precedence_and_origins(tmp_path: Path) -> None:
    path = write(tmp_path, "# mine\nlora_rank: 4\nalpha: 8\nlearning_rate: 1e-5\nkind:\n")
    environ = {"DANLU_LORA_RANK": "2", "DANLU_DO_TRAIN": "1", "DANLU_HOME": "/", "DANLU_KIND": ""}
    found: Resolved[Example] = resolve(Example, [path, "alpha=16", "--prompt", "x"], environ)
    assert found.values.model_dump(exclude_unset=True) == {
        "lora_rank": 4,
        "alpha": 16.0,
        "learning_rate": 1e-5,
        "do_train": True,
        "prompt": "x",
    }
    assert found.origins["lora_rank"] == f"{path}:2"
    assert found.origins["alpha"] == "command line"
    assert found.origins["do_train"] == "DANLU_DO_TRAIN"
    assert found.origins["kind"] == "default"


def test_the_environment_knows_aliases() -> None:
    assert read(DANLU_MODEL="m").model_name_or_path == "m"


def test_yaml_values(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model: 'no'\nprompt: 0123\ndo-train: yes\nenable_thinking: null\n"
        "dataset: [a, b]\nsizes: 1, 2\n",
    )
    assert read(path).model_dump(exclude_unset=True) == {
        "model_name_or_path": "no",
        "prompt": "0123",
        "do_train": True,
        "enable_thinking": None,
        "dataset": ("a", "b"),
        "sizes": (1, 2),
    }
    assert read(write(tmp_path, "")) == Example()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a: 1\nb: [", ["train.yaml:2"]),
        ("do_train: true\nlora_rnk: 4\n", ["train.yaml:2", "Did you mean lora_rank?"]),
        ("\nlora_rank: four\n", ["train.yaml:2", "'four'"]),
        ("lora_rank: [1, 2]", ["'1, 2'"]),
        ("lora_rank: {a: 1}", ["train.yaml:1"]),
        ("lora_rank: 1\nlora-rank: 2", ["train.yaml:2", "twice"]),
        ("- a", ["key: value"]),
        ("a: !!python/object/apply:os.system [x]", ["train.yaml:1"]),
        ("a: *b", ["train.yaml"]),
        ("a: \x00", ["train.yaml"]),
    ],
)
def test_refused_yaml(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        read(write(tmp_path, text))
    for part in parts:
        assert part in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.yaml"):
        read(str(tmp_path / "missing.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"prompt: \xe9")
    with pytest.raises(UsageError, match="not UTF-8"):
        read(str(tmp_path / "latin.yaml"))


def test_key_value_is_read_only_after_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    assert read(path, "lora-rank=3").lora_rank == 3
    assert read(path, "--dataset", "a", "lora_rank=3").dataset == ("a",)
    with pytest.raises(UsageError, match="lora_rank"):
        read(path, "lora_rnk=3")
    assert read("lora_rank=3").model_name_or_path == "lora_rank=3"


def test_a_setting_that_must_be_given() -> None:
    class Strict(Settings):
        """Strict."""

        output_dir: str = option(..., "where to")

    with pytest.raises(UsageError, match="output_dir is missing"):
        resolve(Strict, [], {})
    assert "(must be given)" in help_text(Strict, "strict")


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Shown):
        read_settings(Example, "example", ["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: danlu example [model_name_or_path] [prompt]")
    for name in Example.model_fields:
        assert f"--{name} " in text
    assert "also --model" in text
    assert max(map(len, text.splitlines())) <= 100


def test_printed_settings_are_yaml_with_origins(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Shown):
        read_settings(Example, "example", ["--print_settings", "--dataset", "a,b"])
    text = capsys.readouterr().out
    assert "dataset: [a, b]" in text
    line = next(line for line in text.splitlines() if line.startswith("dataset"))
    assert line.endswith("# command line")
    assert yaml.safe_load(text)["lora_rank"] == 8


@settings(max_examples=50)
@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"])),
    rank=st.integers(),
    dataset=st.lists(st.text(min_size=1)),
)
def test_printed_settings_read_back(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, rank: int, dataset: list[str]
) -> None:
    example = Example(prompt=prompt, lora_rank=rank, dataset=tuple(dataset))
    origins = dict.fromkeys(Example.model_fields, "default")
    text = settings_text(Resolved(values=example, origins=origins))
    path = tmp_path_factory.mktemp("settings") / "back.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    back = read(str(path))
    assert (back.prompt, back.lora_rank) == (prompt, rank)


@given(st.lists(st.text(max_size=12)))
def test_any_words_give_settings_or_a_usage_error(words: list[str]) -> None:
    with suppress(UsageError):
        read(*words)


def test_the_json_schema_tells_a_form_what_it_needs() -> None:
    schema = json.loads(json.dumps(Example.model_json_schema()))
    assert schema["description"] == "Do an example."
    model = schema["properties"]["model_name_or_path"]
    assert (model["default"], model["description"]) == ("starter", "a model")
    assert model["aliases"] == ["model"]
    assert schema["properties"]["kind"]["enum"] == ["lora", "full"]


def test_notes_in_a_terminal_end_their_lines_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stderr", seen := Seen())
    words = ["--flash_attn", "auto"]
    resolved = read_settings(TrainSettings, "train", words)
    lines = seen.getvalue().splitlines()
    assert len(lines) > 1
    assert all(len(line) <= 40 for line in lines)
    assert " ".join(lines) == resolved.notes[0]
