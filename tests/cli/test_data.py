"""`danlu data`: the doctor's verdict and its exit code, and the preview in its three forms."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from danlu.cli.main import main
from tests.helpers.terminal import Terminal

EVIL = "<script>alert(1)</script>\x1b[31m\x9b2J"


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "rows.jsonl"
    texts = (("Who?", "Me."), (EVIL, "<think>\nhm\n</think>\n\nNo 🤖."))
    lines = (json.dumps({"instruction": q, "output": a}) for q, a in texts)
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return file


def test_good_data(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "rows.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "Rows: 2, of which 2 are learned, 0 held out, 0 left out" in said
    assert "Nothing was found." in said


def test_bad_data_ends_with_5(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.jsonl").write_text('{"instruction": "Q", "output": ""}\n{\n', encoding="utf-8")
    assert main(["data", "check", "rows.jsonl", "bad.jsonl"]) == 5
    said = capsys.readouterr().out
    assert "bad.jsonl:1: The answer is empty. Fill in output." in said
    assert "bad.jsonl:2: " in said
    assert said.splitlines()[-1] == "Training would refuse this data."
    assert main(["data", "check", "rows.jsonl", "bad.jsonl", "--skip_bad_rows"]) == 0


def test_a_file_that_cannot_be_read_has_no_statistics(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("gbk.csv").write_bytes("问题,回答\n你是谁,小雪\n".encode("gbk"))
    assert main(["data", "check", "gbk.csv"]) == 5
    said = capsys.readouterr().out
    assert "it looks like GBK" in said
    assert "Tokens" not in said


def test_json(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.jsonl").write_text('{"instruction": "Q", "output": ""}\n', encoding="utf-8")
    assert main(["data", "check", "rows.jsonl,bad.jsonl", "--json"]) == 5
    record = json.loads(capsys.readouterr().out)
    assert record["refuses"] is True
    assert record["findings"] == {"empty_answer": 1}
    assert record["all_findings"][0]["place"] == "bad.jsonl:1"
    assert record["train"]["num_rows"] == 2


def test_the_check_loads_no_torch(rows: Path) -> None:
    code = (
        "import sys\nfrom danlu.cli.main import main\nmain(['data', 'check', 'rows.jsonl'])\n"
        "main(['data', 'preview', 'rows.jsonl'])\nprint('torch' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert said.splitlines()[-1] == "False"


def test_preview_marks_what_is_learned(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "preview", "rows.jsonl"]) == 0
    said = capsys.readouterr().out
    assert "── rows.jsonl:1" in said
    assert "<|im_start|>assistant\n⟦<think>\n\n</think>\n\nMe.<|im_end|>\n⟧" in said
    assert "⟦<think>\nhm\n</think>\n\nNo 🤖.<|im_end|>\n⟧" in said
    assert "\x1b" not in said
    assert "\x9b" not in said


def test_preview_in_a_terminal_is_coloured(rows: Path) -> None:
    with closing(Terminal(["data", "preview", "rows.jsonl"])) as terminal:
        assert terminal.exit_code() == 0
        assert b"\x1b[32m" in terminal.raw
        assert "[32m" not in terminal.text
        assert EVIL[-3:] not in terminal.text


def test_preview_of_fewer_rows_and_with_ids(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "preview", "rows.jsonl", "--rows", "1", "--ids"]) == 0
    said = capsys.readouterr().out
    assert "rows.jsonl:2" not in said
    assert "<|im_start|>⟨" in said


def test_preview_as_a_page(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "preview", "rows.jsonl", "--html", "page.html"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "&lt;" in page
    assert "<script" not in page
    assert "http" not in page
    assert '<span class="t l c" data-id="' in page
    assert "page.html" in capsys.readouterr().out


def test_preview_of_a_bad_row_says_what_is_wrong(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.jsonl").write_text('{"instruction": "Q", "output": ""}\n', encoding="utf-8")
    assert main(["data", "preview", "bad.jsonl"]) == 0
    assert "The answer is empty." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["data", "chek", "rows.jsonl"], 2),
        (["data", "check"], 2),
        (["data", "check", "no.jsonl"], 2),
        (["data", "check", "rows.jsonl", "--model", "no-model"], 2),
        (["data", "check", "rows.jsonl", "--max_samples", "-1"], 2),
        (["data", "preview", "rows.jsonl", "--rows", "0"], 2),
        (["data"], 0),
        (["data", "check", "--help"], 0),
        (["data", "preview", "--help"], 0),
    ],
)
def test_words(rows: Path, words: list[str], code: int) -> None:
    assert main(words) == code
