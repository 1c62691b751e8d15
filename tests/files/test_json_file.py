"""Small JSON files of unknown origin: read with bounds, or refused in one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from danlu.errors import DataError, EnvironmentFault
from danlu.files.json_file import MOST_BYTES, MOST_DEPTH, JsonFile, read_json_file
from tests.helpers.timing import processor_time


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_what_is_there_is_read(tmp_path: Path) -> None:
    file = read_json_file(written(tmp_path, b'\xef\xbb\xbf{"a": 1, "b": null}'), fix="mend it")
    assert (file.fields, file.fix) == ({"a": 1, "b": None}, "mend it")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "line 1"),
        ("[1]", "no JSON object"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ('{"a": 1e999}', "1e999, which is not finite"),
        ('{"a": NaN}', "NaN, which is not finite"),
        ('{"a": [-Infinity]}', "Infinity, which is not finite"),
        (f'{{"a": {"9" * 400}}}', "a number of 400 digits"),
        (f'{{"a": {"9" * 10_000}}}', "a number of 10000 digits"),
        ('{"a": ' * 100_000, f"deeper than {MOST_DEPTH}"),
        ('{"a": ' * 500 + "1" + "}" * 500, f"deeper than {MOST_DEPTH}"),
        ("[" * 100_000, f"deeper than {MOST_DEPTH}"),
        ('{"a": "' + "x" * MOST_BYTES + '"}', "larger than 16 MiB"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, content: str | bytes, why: str) -> None:
    with pytest.raises(DataError, match=r"a\.json") as refused:
        read_json_file(written(tmp_path, content), fix="mend it")
    assert why in refused.value.why
    assert len(str(refused.value).splitlines()) == 3


def test_100_gb_of_nothing_are_refused_at_once(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(100 << 30)
    with processor_time() as spent, pytest.raises(DataError, match="larger than"):
        read_json_file(tmp_path / "a.json", fix="")
    assert spent.seconds < 5


def test_no_pipe_device_or_folder_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "device", "folder"):
        with pytest.raises(DataError, match=f"{name}, not a file"):
            read_json_file(tmp_path / name, fix="")
    (tmp_path / "round").symlink_to("round")
    with pytest.raises((DataError, EnvironmentFault), match="Cannot read"):
        read_json_file(tmp_path / "round", fix="")


FIELDS = {"whole": 3, "part": 0.5, "text": "x", "yes": True, "list": [1], "large": 2**62, "no": 0}


def test_fields_have_the_asked_type() -> None:
    file = JsonFile(path=Path("a.json"), fields=FIELDS, fix="")
    assert file.integer("whole") == 3
    assert file.integer("absent", 7) == 7
    assert file.integer("no", least=0) == 0
    assert file.number("part") == 0.5
    assert file.number("whole") == 3.0
    assert file.text("text") == "x"
    assert file.switch("yes") is True
    assert file.switch("absent") is None


@pytest.mark.parametrize(
    ("call", "name", "options"),
    [
        *(("integer", name, {}) for name in ("part", "text", "yes", "list", "absent", "no")),
        ("integer", "large", {"most": 1 << 20}),
        *(("number", name, {}) for name in ("text", "yes", "list", "absent")),
        ("number", "no", {"positive": True}),
        ("number", "whole", {"most": 1.0}),
        *(("text", name, {}) for name in ("whole", "list", "absent")),
        *(("switch", name, {}) for name in ("whole", "text", "no")),
    ],
)
def test_another_type_names_the_field(call: str, name: str, options: dict[str, Any]) -> None:
    file = JsonFile(path=Path("a.json"), fields=json.loads(json.dumps(FIELDS)), fix="mend it")
    with pytest.raises(DataError, match=name):
        getattr(file, call)(name, **options)
