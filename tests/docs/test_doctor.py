"""The troubleshooting pages show the doctor's lines as it prints them, in both languages.

`python -m tests.docs.test_doctor` writes them anew after a sentence has changed.
"""

from __future__ import annotations

import io
import os
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from danlu.cli.machine.doctor import print_checks
from danlu.doctor.examination import OF_ASCEND, examine
from tests.docs.test_troubleshooting import PAGES
from tests.doctor.test_machines import MACHINES

BEGIN, END = "<!-- doctor: begin -->\n", "<!-- doctor: end -->\n"


def block(folder: Path) -> str:
    """Write what it says of an Ascend whose set_env.sh was not read, as if it were in its place."""
    make, _expected = MACHINES["set_env.sh was not read"]
    of_ascend = {look.__name__ for look in OF_ASCEND}
    here, there = f"{folder}/Ascend", "/usr/local/Ascend"
    checks = [
        replace(
            check,
            found=check.found.replace(here, there),
            repair=check.repair.replace(here, there),
        )
        for check in examine(make(folder))
        if check.name in of_ascend
    ]
    printed = io.StringIO()
    with redirect_stdout(printed):
        print_checks(checks)
    return f"\n```text\n{printed.getvalue()}```\n\n"


@pytest.mark.parametrize("language", PAGES)
def test_the_page_shows_what_the_doctor_says(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANLU_LANG", language)
    page = PAGES[language].read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0] == block(tmp_path)


if __name__ == "__main__":
    for code, file in PAGES.items():
        with tempfile.TemporaryDirectory() as place:
            os.environ["DANLU_LANG"] = code
            before, rest = file.read_text(encoding="utf-8").split(BEGIN)
            after = rest.split(END)[1]
            text = f"{before}{BEGIN}{block(Path(place))}{END}{after}"
            file.write_text(text, encoding="utf-8")
