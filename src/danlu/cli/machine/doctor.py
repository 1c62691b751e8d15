"""`danlu doctor`: what is wrong with this machine, and the command that repairs each thing."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import asdict

import danlu
from danlu.cli.terminal.screen import json_line
from danlu.doctor.examination import examine, shown_name
from danlu.doctor.surroundings import look_around
from danlu.doctor.verdicts import Check
from danlu.errors import EXIT_OK, EnvironmentFault
from danlu.language import _, columns, padded, speak, wrapped
from danlu.moving_line import MovingLine
from danlu.program import as_typed
from danlu.say import say
from danlu.settings.schema import Settings, option
from danlu.settings.show import read_settings
from danlu.text.printable import one_line

_COLUMNS = 80
# The mark of a state, one for terminals that know nothing but ASCII, and the colour.
_MARKS = {
    "green": ("✓", "+", "green"),
    "hint": ("!", "!", "yellow"),
    "red": ("✗", "x", "bold red"),
}


class DoctorSettings(Settings):
    """Look at the machine: green, worth knowing, or red with the command that repairs it."""

    json_output: bool = option(False, "print JSON, in English", aliases=("json",))


def run(argv: Sequence[str]) -> int:
    """Print the checks; 3 where one is red."""
    settings = read_settings(DoctorSettings, "doctor", argv).values
    with MovingLine(_("Looking at the machine")):
        # Whoever gets a report can search for its words.
        checks = copy_context().run(_examined, "en" if settings.json_output else "")
    num_red = sum(check.state == "red" for check in checks)
    if settings.json_output:
        records = [{**asdict(check), "repair": as_typed(check.repair)} for check in checks]
        print(json_line({"danlu": danlu.__version__, "red": num_red, "checks": records}))
    else:
        print_checks(checks)
        say("", _ending(num_red))
    return EnvironmentFault.exit_code if num_red else EXIT_OK


def _examined(language: str) -> list[Check]:
    """Look at this machine, and say what there is in a language; empty: the user's."""
    if language:
        speak(language)
    return examine(look_around())


def print_checks(checks: Sequence[Check]) -> None:
    """Print each check after its mark and its name; what repairs it stands below."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    names = {check.name: shown_name(check) for check in checks}
    width = max(map(columns, names.values())) + 2
    indent = " " * (width + 3)
    said: set[tuple[str, str]] = set()
    for check in checks:
        mark, plain, colour = _MARKS[check.state]
        mark = mark if console.encoding.startswith("utf") else plain
        is_new = (check.found, check.repair) not in said
        said.add((check.found, check.repair))
        text = one_line(check.found) if is_new else _("as above")
        lines = wrapped(text, _COLUMNS - len(indent))
        head = Text.assemble(" ", (mark, colour), f" {padded(names[check.name], width)}", lines[0])
        console.print(head, soft_wrap=True)
        for line in lines[1:]:
            say(indent + line)
        if check.repair and is_new:
            say(indent + check.repair)


def _ending(num_red: int) -> str:
    if not num_red:
        return _("Nothing is wrong.")
    return _("Wrong: {count}. Below each stands what repairs it; then: danlu doctor").format(
        count=num_red
    )
