"""Why libraries and the system refuse, in the user's language; what is not known is quoted."""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pydantic
import pytest
import yaml

from danlu.cli.main import main
from danlu.reasons import SYSTEM_REASONS, library_reason, reason_of, system_reason
from tests.helpers.chinese import CHINESE, faults

STRANGE = "flux capacitor is not charged"


@pytest.fixture
def in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_LANG", "zh")


class _Body(pydantic.BaseModel, strict=True, extra="forbid"):
    count: int = pydantic.Field(3, ge=1, le=5)
    names: list[str] = pydantic.Field([], max_length=2)
    text: str = pydantic.Field("abc", min_length=2, max_length=4)
    share: float = pydantic.Field(0.5, gt=0, lt=1)
    on: bool = True


def _failure(action: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        action()
    return caught.value


@pytest.mark.usefixtures("in_chinese")
@pytest.mark.parametrize(
    "text",
    ["{", "[1,", "[1 2]", '{"a" 1}', '{"a": }', "1 2", '"abc', '"\t"', '"\\x"', "{a: 1}", "nul"],
)
def test_what_is_no_json(text: str) -> None:
    for read in (json.loads, lambda text: pydantic.TypeAdapter(dict).validate_json(text)):
        fault = _failure(lambda read=read: read(text))
        words = fault.errors()[0]["ctx"]["error"] if hasattr(fault, "errors") else str(fault)
        said = library_reason(words)
        assert CHINESE.search(said)
        assert "“" not in said, words


@pytest.mark.usefixtures("in_chinese")
@pytest.mark.parametrize(
    "text",
    ["a: b: c", "a:\n\tb", "a: *b", 'a: "b', "a: [1, 2", "a: {b", "- a\nb: c", "a: @b", "a: !x y",
     "a: &b 1\nc: &b 2", "a\nb: c", "? [a]\n: b", '"\\q"'],
)  # fmt: skip
def test_what_is_no_yaml(text: str) -> None:
    def load() -> None:
        yaml.safe_load(text)
        raise ValueError("原来可以读取")

    fault = _failure(load)
    said = library_reason(getattr(fault, "problem", "") or str(fault))
    assert CHINESE.search(said)
    assert "“" not in said, str(fault)


@pytest.mark.usefixtures("in_chinese")
@pytest.mark.parametrize(
    "body",
    [{"count": "a"}, {"count": 0}, {"count": 9}, {"count": 1.5}, {"count": None}, {"names": 3},
     {"names": ["a", "b", "c"]}, {"names": [1]}, {"text": "a"}, {"text": "abcde"}, {"text": 1},
     {"share": 0}, {"share": 1}, {"share": "x"}, {"on": "yes"}, {"other": 1}, []],
)  # fmt: skip
def test_what_pydantic_refuses(body: object) -> None:
    fault = _failure(lambda: _Body.model_validate(body))
    assert isinstance(fault, pydantic.ValidationError)
    said = library_reason(fault.errors()[0]["msg"])
    assert CHINESE.search(said)
    assert "“" not in said, said


@pytest.mark.usefixtures("in_chinese")
def test_the_system_and_the_network() -> None:
    for number in SYSTEM_REASONS:
        assert not [*faults(system_reason(OSError(number, os.strerror(number))))]
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    assert reason_of(urllib.error.URLError(refused)) == "连接被拒绝"
    assert reason_of(socket.gaierror(socket.EAI_NONAME, "Name or service not known")) == (
        "找不到这个主机名"
    )
    assert reason_of(TimeoutError("timed out")) == "超时"
    certificate = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: expired (_ssl.c:9)"
    assert reason_of(ssl.SSLError(1, certificate)).startswith("服务器的证书未通过验证")


@pytest.mark.usefixtures("in_chinese")
def test_an_unknown_sentence_is_quoted_and_ours_is_not() -> None:
    assert reason_of(ValueError(STRANGE)) == f"原文为“{STRANGE}”"
    assert reason_of(ValueError("数据不合适")) == "数据不合适"


@pytest.mark.usefixtures("in_chinese")
def test_a_mistake_of_ours_is_three_chinese_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_words: object) -> int:
        raise RuntimeError(STRANGE)

    monkeypatch.setattr("danlu.cli.machine.info.run", fail)
    assert main(["info"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[1] == f"原文为“{STRANGE}”"
    assert all(CHINESE.search(line) for line in lines)


def test_in_english_libraries_speak_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_LANG", "en")
    assert reason_of(ValueError(STRANGE)) == STRANGE
    assert library_reason("Expecting value: line 1 column 2 (char 1)").startswith("Expecting value")


def test_a_chinese_screen_is_judged() -> None:
    assert [*faults("The folder does not exist")] == ["English"]
    assert [*faults("请把 port 写成 INT")] == ["left over"]
    assert [*faults("很长 " * 30)] == ["too long"]
    assert not [*faults("请运行 danlu train --dataset rows.jsonl，见 docs/training.zh-CN.md")]
    assert not [*faults(f"原文为“{STRANGE}”")]


def test_every_kind_of_finding_has_a_word() -> None:
    import re

    from danlu.data.findings import FINDING_KINDS
    from tests.helpers.source import ROOT

    found = set()
    for path in Path(ROOT, "src/danlu/data").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'(?:BadRow|BrokenFile)\(\s*"(\w+)"|\bkind="(\w+)"', text))
    used = {name for pair in found for name in pair if name}
    assert used - {*FINDING_KINDS} == set()
