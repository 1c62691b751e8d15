"""`danlu runs`: the runs of this machine; `show` or `stop` one of them; what was moved aside."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Literal

from danlu.cli.terminal.fact_table import print_facts
from danlu.cli.terminal.screen import json_line
from danlu.errors import EXIT_OK, EnvironmentFault, UsageError
from danlu.language import _, columns, padded
from danlu.runs.manifest import read_manifest
from danlu.runs.registry import RunStatus, find_run, list_runs, shown_state, status_of
from danlu.runs.resuming import resume_command
from danlu.runs.stopping import ask_to_stop
from danlu.runs.trash import empty_trash, list_trash
from danlu.say import say
from danlu.settings.schema import Settings, option
from danlu.settings.show import read_settings
from danlu.text.printable import printable
from danlu.units import readable_bytes

# How long a run may take to save before `stop` no longer waits for it.
STOP_WAIT_S = 600.0


class RunsSettings(Settings):
    """List the runs of this machine, show or stop one, or list and empty the trash."""

    action: Literal["list", "show", "stop", "trash"] = option("list", "what to do", position=0)
    run: str | None = option(None, "name or folder of a run, for show and stop", position=1)
    empty: bool = option(False, "with trash: remove for good what is in it")
    json_output: bool = option(False, "print JSON", aliases=("json",))


def run(argv: Sequence[str]) -> int:
    """Print the list, or show or stop one run."""
    resolved = read_settings(RunsSettings, "runs", argv)
    settings = resolved.values
    _check(settings)
    if settings.action == "list":
        _list(settings.json_output)
        return EXIT_OK
    if settings.action == "trash":
        _trash(settings)
        return EXIT_OK
    if settings.run is None:
        raise UsageError(
            _("danlu runs {action} needs a run.").format(action=settings.action),
            why=_("No name or folder is given."),
            fix=shlex.join(["danlu", "runs", settings.action, _newest_run()]),
        )
    folder = find_run(settings.run)
    if settings.action == "show":
        _show(folder, settings.json_output)
    else:
        _stop(folder)
    return EXIT_OK


def _newest_run() -> str:
    runs = list_runs()
    return str(runs[0].path) if runs else "my-run"


def _check(settings: RunsSettings) -> None:
    """Refuse what the chosen action would ignore."""
    for name, meant, given in (
        ("empty", "trash", settings.empty and settings.action != "trash"),
        ("run", "show", settings.run is not None and settings.action in ("list", "trash")),
    ):
        if given:
            raise UsageError(
                _("--{name} has no meaning here.").format(name=name),
                why=_("danlu runs {action} does not take it.").format(action=settings.action),
                fix=f"danlu runs {meant} {shlex.quote(settings.run or '--empty')}",
            )


def _record(run: RunStatus) -> dict[str, object]:
    return {**asdict(run), "path": str(run.path)}


def _list(as_json: bool) -> None:
    runs = list_runs()
    if as_json:
        for run in runs:
            print(json_line(_record(run)))
        return
    if not runs:
        say(_("No runs yet. danlu train --help tells how to start one."))
        return
    for line in _list_lines(list(reversed(runs))):
        print(printable(line))  # unbroken: a name is copied


def _list_lines(runs: Sequence[RunStatus]) -> Iterator[str]:
    """Write a line for each run, the newest last, below the folder that they are in.

    The name stands last: it may be as long as it likes, and can be copied.
    """
    heads = (_("started"), _("state"), _("step"), _("loss"), _("held-out"), _("size"), _("run"))
    rows = [
        (
            datetime.fromisoformat(run.started).astimezone().strftime("%Y-%m-%d %H:%M"),
            shown_state(run.state),
            str(run.step),
            _loss(run.loss),
            _loss(run.eval_loss),
            readable_bytes(run.size_bytes),
            run.path.name,
        )
        for run in runs
    ]
    widths = [max(map(columns, column)) + 2 for column in zip(heads, *rows, strict=True)]
    folder = None
    yield _joined(heads, widths)
    for run, row in zip(runs, rows, strict=True):
        if run.path.parent != folder:
            folder = run.path.parent
            yield _("in {folder}").format(folder=_short(folder))
        yield _joined(row, widths)


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    line = "".join(map(padded, cells, widths))
    return f"  {line}".rstrip()


def _short(folder: Path) -> str:
    """Write a folder as a shell takes it too: the user's home as ~."""
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


def _trash(settings: RunsSettings) -> None:
    """List what was moved aside, or remove it."""
    entries = list_trash()
    if settings.empty:
        removed = list(empty_trash(entries))
        say(
            _("Removed: {count}, {size}").format(
                count=len(removed), size=readable_bytes(sum(one.size_bytes for one in removed))
            )
        )
        for entry in entries:
            if entry not in removed:
                say(_("In use, and left: {path}").format(path=entry.path))
        return
    if settings.json_output:
        for entry in entries:
            print(json_line({**asdict(entry), "path": str(entry.path)}))
        return
    if not entries:
        say(_("The trash is empty."))
        return
    for entry in entries:  # one a line and whole, so that a path can be copied
        say(f"{readable_bytes(entry.size_bytes):>9}  {entry.path}")
    say(_("Take one back with mv; danlu runs trash --empty removes all for good."))


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _show(folder: Path, as_json: bool) -> None:
    from danlu.runs.checkpoints import list_checkpoints
    from danlu.runs.manifest import read_manifest

    status = status_of(folder)
    record = _record(status)
    manifest = read_manifest(folder)
    if as_json:
        print(json_line({**record, "run": manifest.model_dump()}))
        return
    facts = {
        **{name: value for name, value in record.items() if name != "detail"},
        "state": f"{status.state} {status.detail}".strip(),
        "template": manifest.template,
        "thinking": manifest.enable_thinking,
        "device": manifest.arithmetic.device_description,
        "dtype": manifest.arithmetic.dtype,
        "checkpoints": [checkpoint.step for checkpoint in list_checkpoints(folder)],
    }
    data = manifest.data.model_dump(mode="json")
    sentences = [*data.pop("datasets", ()), *data.pop("left_out_rows", ())]
    _part("", facts)
    _part(_("Data"), data)
    for sentence in sentences:
        say(f"  {sentence}")
    _part(_("Results"), manifest.results)
    given = [name for name, origin in manifest.origins.items() if origin != "default"]
    if given:
        say(_("Settings that were given"))
    for name in given:
        say(f"  --{name} {shlex.quote(str(manifest.settings[name]))}")


def _part(title: str, facts: Mapping[str, object]) -> None:
    """Print the facts that have a value, under their title."""
    present = {name: value for name, value in facts.items() if value not in (None, "", [], {})}
    if present:
        if title:
            say(title)
        print_facts(present, indent="  " if title else "")


def _stop(folder: Path) -> None:
    """Ask the run's process to save and end, and wait until it has."""
    pid = ask_to_stop(folder)
    say(_("Stopping process {pid}; it saves the last completed step first.").format(pid=pid))
    deadline = time.monotonic() + STOP_WAIT_S
    while status_of(folder).pid == pid and time.monotonic() < deadline:
        time.sleep(0.1)
    now = status_of(folder)
    if now.pid == pid:
        raise EnvironmentFault(
            _("The run {path} has not ended yet.").format(path=folder),
            why=_("Process {pid} is still saving.").format(pid=pid),
            fix=f"danlu runs show {shlex.quote(str(folder))}",
        )
    say(
        _("Stopped at step {step}. Go on with it: {command}").format(
            step=now.step, command=resume_command(folder, read_manifest(folder))
        )
    )
