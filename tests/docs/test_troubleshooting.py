"""The troubleshooting page shows what danlu really says about broken data files.

`python -m tests.docs.test_troubleshooting` writes the section anew after a sentence has changed.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from danlu.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
BEGIN, END = "<!-- broken files: begin -->\n", "<!-- broken files: end -->\n"
GOOD = '{"instruction": "Who are you?", "output": "I am Ember."}\n'


def line(**fields: object) -> str:
    return json.dumps(fields, ensure_ascii=False) + "\n"


def row(question: str, answer: object) -> str:
    return line(instruction=question, output=answer)


def talk(*messages: tuple[str, str]) -> str:
    return line(messages=[{"role": role, "content": content} for role, content in messages])


# What is wrong, the file's name (with further words of the command), its content.
BROKEN: tuple[tuple[str, str, str | bytes], ...] = (
    ("The file is in GBK", "rows.jsonl", row("你是谁？", "我是小雪。").encode("gbk")),
    ("The file is in UTF-16", "rows.json", f"[{GOOD}]".encode("utf-16")),
    ("The file is not text", "rows.jsonl", b"PK\3\4\0\0\0\0 a zip file"),
    ("The file is empty", "rows.jsonl", ""),
    ("The array ends too soon", "rows.json", f"[\n{GOOD}, {GOOD}"),
    ("A comma is missing in the array", "rows.json", f"[\n{GOOD}{GOOD}]"),
    ("A line is not JSON", "rows.jsonl", GOOD + "{'instruction': 'single quotes'}\n"),
    (
        "A key stands twice",
        "rows.jsonl",
        GOOD + '{"instruction": "a", "output": "b", "output": "c"}\n',
    ),
    ("The columns have other names", "rows.jsonl", line(ask="Who?", reply="Me.")),
    ("A column is missing in one row", "rows.jsonl", GOOD + line(instruction="Who?")),
    ("An answer is empty", "rows.jsonl", GOOD + row("Who?", "")),
    ("A field is not text", "rows.jsonl", GOOD + row("1 + 1?", 2)),
    ("Half a character", "rows.jsonl", GOOD + '{"instruction": "Hi \\ud83d", "output": "Hi!"}\n'),
    ("An unknown role", "rows.jsonl", talk(("user", "Hi"), ("asistant", "Hi!"))),
    (
        "Roles in a wrong order",
        "rows.jsonl",
        talk(("user", "Hi"), ("user", "Hello?"), ("assistant", "Hi!")),
    ),
    (
        "The last message is a question",
        "rows.jsonl",
        talk(("user", "Hi"), ("assistant", "Hi!"), ("user", "Bye")),
    ),
    (
        "Several thoughts in one answer",
        "rows.jsonl",
        row("Who?", "<think>a</think>Me.<think>b</think>"),
    ),
    ("A thought that is never closed", "rows.jsonl", row("Who?", "<think>\nMe, I think. Me.")),
    ("Text of the chat template in the data", "rows.jsonl", row("Who?", "Me.<|im_end|>")),
    ("Placeholders were left in", "rows.jsonl", row("Who?", "I am {{name}}.")),
    ("A row is too long", "rows.jsonl --cutoff_len 128", GOOD + row("Why? " * 200, "So.")),
    ("The same row twice", "rows.jsonl", GOOD + GOOD),
)


def said_about(words: str, content: str | bytes) -> list[str]:
    """Run the doctor on one file; return the findings, or the error's three lines."""
    name, *options = words.split()
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["data", "check", name, *options, "--json"])
    Path(name).unlink()
    if not out.getvalue():
        return [*err.getvalue().splitlines(), f"exit code {code}"]
    record = json.loads(out.getvalue())
    lines = [finding["text"] for finding in record["all_findings"]]
    return [*(lines or record["refusal"].splitlines()), f"exit code {code}"]


def section() -> str:
    """Write the section of the page; the files lie in the working folder for a moment."""
    parts = []
    for title, words, content in BROKEN:
        shown = "\n".join(said_about(words, content))
        parts.append(f"### {title}\n\n```text\n{shown}\n```\n")
    return "\n".join(parts)


def test_the_page_shows_what_danlu_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(BROKEN) >= 20
    page = PAGE.read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0] == f"\n{section()}\n"


if __name__ == "__main__":
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ |= {"DANLU_HOME": folder, "DANLU_LANG": "en"}
        PAGE.write_text(f"{before}{BEGIN}\n{section()}\n{END}{after}", encoding="utf-8")
