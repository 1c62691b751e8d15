"""docs/serving.md: commands run, settings exist with these defaults, limits hold; Chinese too."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.server.edge import connections, http_parser, limits, request_body
from danlu.server.lifecycle.vllm_options import OPTIONS
from danlu.server.settings import ServeSettings
from tests.helpers.program import free_port, serving

ROOT = Path(__file__).resolve().parents[2]
PAGE, CHINESE = (
    (ROOT / "docs" / name).read_text(encoding="utf-8")
    for name in ("serving.md", "serving.zh-CN.md")
)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's commands need curl")
def test_commands_run() -> None:
    """Those of both pages, of one server: its command is the same."""
    port = free_port()
    found = {
        kind: [
            re.findall(rf"```{kind}\n(.*?)```", page.replace("8000", port), flags=re.DOTALL)[0]
            for page in (PAGE, CHINESE)
        ]
        for kind in ("bash", "curl", "python")
    }
    [command] = set(found["bash"])
    with serving(shlex.split(command)[1:]):
        for lines in map(str.splitlines, found["curl"]):
            assert len(lines) == 3
            for line in lines:
                words = [*shlex.split(line), "--silent", "--fail-with-body"]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stdout
        for program in dict.fromkeys(found["python"]):
            client = [sys.executable, "-c", program]
            done = subprocess.run(client, capture_output=True, text=True, check=False)
            assert done.stdout.strip(), done.stderr


def test_settings_are_those_of_the_command() -> None:
    named = set(re.findall(r"--([a-z][a-z0-9_-]*)", PAGE)) - {"address", "head"}  # ray's
    assert named <= {*ServeSettings.model_fields, "model", *OPTIONS}
    defaults = ServeSettings()
    for name, value in re.findall(r"`--(max_num_seqs|max_queue|drain_s)`,? \(?(\d+)\)?", PAGE):
        assert getattr(defaults, name) == int(value)
    assert defaults.max_body_bytes == 4 * 1024 * 1024


def test_limits_are_those_of_the_server() -> None:
    table = [line for line in PAGE.splitlines() if line.startswith("| ")]
    text = "\n".join(table)
    assert f"depth of its JSON | {request_body.MAX_DEPTH} |" in text
    parts = request_body.MAX_NAMES, request_body.MAX_CONTAINERS, request_body.MAX_VALUES
    assert "values in it | {:,}; {:,}; {:,} |".format(*parts) in text
    assert f"chunks of a body | {http_parser.SMALL_CHUNKS:,}," in text
    assert f"every {http_parser.CHUNK_BYTES} bytes" in text
    assert f"headers | {limits.MAX_HEADER_BYTES // 1024} KiB |" in text
    assert request_body.SLOWEST_BYTES_PER_SECOND == 16 * 1024
    assert f"body to arrive | {request_body.BODY_SECONDS:.0f} s" in text
    head, write = connections.HEAD_SECONDS, connections.WRITE_SECONDS
    assert f"client to read | {head:.0f} s; {write:.0f} s |" in text


def test_the_chinese_page_has_the_same_commands_settings_and_numbers() -> None:
    def said(page: str) -> tuple[list[str], list[str], list[str]]:
        fenced = re.findall(r"```(?:text|bash)\n(.*?)```", page, flags=re.DOTALL)
        limits = [line for line in page.splitlines() if line.startswith("| ")]
        numbers = re.findall(r"\d+(?:[.,]\d+)*", "\n".join(limits))
        return fenced, re.findall(r"--[a-z_0-9]+", page), numbers

    assert said(CHINESE) == said(PAGE)
