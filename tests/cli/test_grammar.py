"""One grammar: a model, an adapter or a run is named by position or by flag, alike everywhere."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.cli.serve import with_adapter
from danlu.errors import AmbiguousName
from danlu.runs.registry import find_run, register
from danlu.server.settings import ServeSettings
from danlu.settings.resolve import resolve
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import train_words, write_rows

# A model, an adapter of anybody, a run by its path, and a run by its name, from another folder.
THINGS = ("model", "adapter", "run", "runs-name")
FORMS = [
    (thing, form)
    for thing in THINGS
    for form in ("position", "--model", "--adapter")
    if (thing, form) != ("model", "--adapter")
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("grammar")
    base, run = folder / "base", folder / "run of the grammar"
    write_model_folder(base)
    words = train_words(base, write_rows(folder / "rows.jsonl"), run, learning_rate=0.1)
    assert main(words) == 0
    shutil.copytree(run / "final", folder / "peft")
    return {
        "model": str(base),
        "adapter": str(folder / "peft"),
        "run": str(run),
        "runs-name": run.name,
        "rows": str(folder / "rows.jsonl"),
    }


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


Said = Callable[..., dict[str, object]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Run a command that succeeds, and read the JSON that it prints last."""

    def read(*words: str) -> dict[str, object]:
        capsys.readouterr()
        assert main(list(words)) == 0, capsys.readouterr().err
        record: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return record

    return read


def named(place: str, form: str) -> list[str]:
    return [place] if form == "position" else [form, place]


@pytest.mark.parametrize(("thing", "form"), FORMS)
def test_chat_and_generate_answer_with_it(
    places: dict[str, str], thing: str, form: str, said: Said, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*named(places[thing], form), "--prompt", "fox", "--do_sample", "false"]
    words += ["--max_new_tokens", "6"]
    assert main(["chat", *words]) == 0
    spoken = capsys.readouterr()
    assert (f"Model {places['model']} " in spoken.err) is True
    assert ("Adapter " in spoken.err) is (thing != "model")
    record = said("generate", *words, "--json")
    assert record["model"] == places["model"]
    assert str(record["content"]).strip() == spoken.out.strip()


@pytest.mark.parametrize(("thing", "form"), FORMS)
def test_serve_takes_it_for_what_it_is(places: dict[str, str], thing: str, form: str) -> None:
    settings = with_adapter(resolve(ServeSettings, named(places[thing], form), {}).values)
    place = places["run" if thing == "runs-name" else thing]
    model, adapters = (place, ()) if thing == "model" else (None, (place,))
    assert (settings.model_name_or_path, settings.adapter) == (model, adapters)


def test_serve_finds_a_run_behind_the_name_that_requests_use(places: dict[str, str]) -> None:
    words = ["--adapter", f"fox={places['runs-name']}"]
    assert with_adapter(resolve(ServeSettings, words, {}).values).adapter == (
        f"fox={places['run']}",
    )


@pytest.mark.parametrize(("thing", "form"), FORMS)
def test_merge_finds_its_base_and_export_says_what_comes_first(
    places: dict[str, str],
    thing: str,
    form: str,
    said: Said,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = named(places[thing], form)
    if thing == "model":
        assert main(["merge", *words, "--export_dir", "merged"]) == 2
        assert "--adapter_name_or_path is missing" in capsys.readouterr().err
        assert said("export", *words, "--export_dir", "gguf", "--json")["num_tensors"]
        return
    assert main(["export", *words, "--export_dir", "gguf"]) == 2
    command = shlex.split(capsys.readouterr().err.splitlines()[-1].partition(": ")[2])
    assert command[:2] == ["danlu", "merge"]
    record = said("merge", *words, "--export_dir", "merged", "--json")
    assert record["base"] == places["model"]
    assert (tmp_path / "merged" / "model.safetensors").is_file()


@pytest.mark.parametrize(("thing", "form"), FORMS)
def test_eval_scores_it(places: dict[str, str], thing: str, form: str, said: Said) -> None:
    words = ["--dataset", places["rows"], "--max_samples", "1", "--max_new_tokens", "2", "--json"]
    words += ["--output_dir", "scores"]  # two may begin in one second
    record = said("eval", *named(places[thing], form), *words)
    assert record["model"] == places["model"]
    assert (record["adapter"] is None) is (thing == "model")


# A report takes a second: each form and each thing once, the other pairs before merging.
@pytest.mark.parametrize(
    ("thing", "form"),
    [
        ("run", "position"),
        ("runs-name", "--model"),
        ("run", "--adapter"),
        pytest.param("runs-name", "position", marks=pytest.mark.soak),
        pytest.param("run", "--model", marks=pytest.mark.soak),
        pytest.param("runs-name", "--adapter", marks=pytest.mark.soak),
    ],
)
def test_eval_writes_a_runs_report(
    places: dict[str, str], thing: str, form: str, said: Said
) -> None:
    record = said("eval", *named(places[thing], form), "--report_seconds", "1", "--json")
    assert str(record["html"]).startswith(places["run"])


def test_eval_refuses_what_it_cannot_score(
    places: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for words, what in (
        (["no-such-thing"], "There is no run no-such-thing."),
        ([places["model"]], "There is nothing to evaluate."),
        (
            [places["model"], "--model", "starter", "--dataset", places["rows"]],
            f"Two are named: {places['model']} and starter.",
        ),
    ):
        assert main(["eval", *words]) == 2
        assert capsys.readouterr().err.splitlines()[0] == what


@pytest.mark.parametrize(("thing", "form"), FORMS)
def test_plan_and_info_know_it(places: dict[str, str], thing: str, form: str, said: Said) -> None:
    words = named(places[thing], form)
    assert said("plan", *words, "--dataset", places["rows"], "--json")["num_trained"]
    kind = {"model": "model", "adapter": "adapter"}.get(thing, "run (lora)")
    assert said("info", *words, "--json")["kind"] == kind


def test_a_piped_prompt_leaves_the_word_to_the_model(
    places: dict[str, str], said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in ([places["runs-name"]], [places["runs-name"], "-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("fox"))
        assert said("generate", *words, "--max_new_tokens", "1", "--json")["prompt_tokens"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert said("generate", "fox", "--max_new_tokens", "1", "--json")["model"] == "starter"


@pytest.fixture
def two_runs(places: dict[str, str], tmp_path: Path) -> tuple[str, str]:
    """Two runs of one name, in two folders."""
    name = tmp_path.name
    for folder in (one := tmp_path / "one" / name, other := tmp_path / "other" / name):
        shutil.copytree(places["run"], folder)
        register(folder)
    return str(one), str(other)


@pytest.mark.parametrize(
    "command", ["chat", "generate", "serve", "merge", "export", "eval", "info"]
)
def test_two_of_one_name_are_both_named(
    command: str, two_runs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = Path(two_runs[0]).name
    words = {"generate": ["--prompt", "fox"], "chat": ["--prompt", "fox"]}.get(command, [])
    assert main([command, "--model" if command != "eval" else "--run", name, *words]) == 2
    error = capsys.readouterr().err
    assert f"There are 2 runs named {name}." in error
    assert all(path in error for path in two_runs)


def test_on_a_terminal_it_is_asked_which_is_meant(
    two_runs: tuple[str, str], said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Path(two_runs[0]).name
    with pytest.raises(AmbiguousName) as caught:
        find_run(name)
    wanted = str(caught.value.choices.index(two_runs[1]) + 1)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _question: wanted)
    record = said("merge", "--adapter", f"{name}=0.5", "--export_dir", "merged", "--json")
    assert record["weights"] == {f"{two_runs[1]}/final": 0.5}
    for nothing in ("", "0", "3", "x"):
        monkeypatch.setattr("builtins.input", lambda _question, answer=nothing: answer)
        assert main(["info", name]) == 2
