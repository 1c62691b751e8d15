"""`danlu doctor`: what is wrong with this machine, and the command that repairs each thing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import copy_context
from dataclasses import asdict, replace
from pathlib import Path

import danlu
from danlu.cli.terminal.screen import json_line
from danlu.doctor.examination import examine, shown_name
from danlu.doctor.surroundings import look_around
from danlu.doctor.verdicts import Check, red
from danlu.environment import set_unless_given
from danlu.errors import EXIT_OK, EnvironmentFault, UsageError
from danlu.files.atomic import atomic_write, make_folder
from danlu.files.home import danlu_home
from danlu.hub.settings import DeviceName
from danlu.language import _, columns, padded, speak, wrapped
from danlu.moving_line import MovingLine
from danlu.program import as_typed
from danlu.say import say
from danlu.settings.option_names import COMMAND_LINE
from danlu.settings.schema import Settings, option
from danlu.settings.show import read_settings
from danlu.text.printable import one_line

_COLUMNS = 80
_NAME_COLUMNS = 15  # of the self-test's parts, which are printed one by one
# The mark of a state, one for terminals that know nothing but ASCII, and the colour.
_MARKS = {
    "green": ("✓", "+", "green"),
    "hint": ("!", "!", "yellow"),
    "red": ("✗", "x", "bold red"),
}


class DoctorSettings(Settings):
    """Look at the machine: green, worth knowing, or red with the command that repairs it."""

    json_output: bool = option(False, "print JSON, in English", aliases=("json",))
    selftest: bool = option(
        False, "prove it on this device: operations, ten steps, a resumed run, an answer; a minute"
    )
    device: DeviceName = "auto"


def run(argv: Sequence[str]) -> int:
    """Print the checks; 3 where one is red."""
    resolved = read_settings(DoctorSettings, "doctor", argv)
    settings = resolved.values
    if resolved.origins["device"] == COMMAND_LINE and not settings.selftest:
        raise UsageError(
            _("The doctor looks at the whole machine."),
            why=_("--device is for the self-test."),
            fix=f"danlu doctor --selftest --device {settings.device}",
        )
    with MovingLine(_("Looking at the machine")):
        # Whoever gets a report can search for its words.
        checks = copy_context().run(_examined, "en" if settings.json_output else "")
    if not settings.json_output:
        print_checks(checks)
    if settings.selftest:
        if not settings.json_output:
            say("", _("Self-test, with the starter model:"))
        tested = copy_context().run(_tested, settings, checks)
        checks = [*checks, *tested]
        if not settings.json_output:
            path = copy_context().run(write_report, checks)
            say("", _("To paste into an issue: {path}").format(path=path))
    num_red = sum(check.state == "red" for check in checks)
    if settings.json_output:
        records = [{**asdict(check), "repair": as_typed(check.repair)} for check in checks]
        print(json_line({"danlu": danlu.__version__, "red": num_red, "checks": records}))
    else:
        say("", _ending(num_red))
    return EnvironmentFault.exit_code if num_red else EXIT_OK


def _examined(language: str) -> list[Check]:
    """Look at this machine, and say what there is in a language; empty: the user's."""
    if language:
        speak(language)
    return examine(look_around())


def _tested(settings: DoctorSettings, looked: Sequence[Check]) -> list[Check]:
    """Run the self-test, printing each part when it is done; in English where it is JSON."""
    if settings.json_output:
        speak("en")
    found: list[Check] = []
    parts = _parts(settings.device, looked)
    while True:
        with MovingLine(_("Testing")):
            check = next(parts, None)
        if check is None:
            return found
        found.append(check)
        if not settings.json_output:
            print_checks([check], width=_NAME_COLUMNS)


def _parts(device: str, looked: Sequence[Check]) -> Iterator[Check]:
    if any(check.name == "torch" and check.state == "red" for check in looked):
        text = _("It needs a torch that can be loaded.")
        yield replace(red(text, _("Repair torch first, see above.")), name="selftest")
        return
    # torch_npu computes on the host, without a word, what its card has no kernel for; read once.
    set_unless_given({"TORCH_NPU_FALLBACK_CPU_DISABLE": "1"})
    from danlu.doctor.selftest import SelfTest

    yield from SelfTest(device).run()


def write_report(checks: Sequence[Check]) -> Path:
    """Write what was found as Markdown; return the file."""
    path = danlu_home() / "selftest.md"
    make_folder(path.parent)
    lines = [f"danlu {danlu.__version__}", "", "| | | |", "|---|---|---|"]
    for check in checks:
        cells = (check.state, check.name, one_line(check.found).replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |")
    atomic_write(path, "\n".join(lines) + "\n")
    return path


def print_checks(checks: Sequence[Check], *, width: int = 0) -> None:
    """Print each check after its mark and its name; what repairs it stands below.

    width: of the names, in columns; 0: as they need.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    names = {check.name: shown_name(check) for check in checks}
    width = width or max(map(columns, names.values())) + 2
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
