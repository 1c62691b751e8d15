"""The login banner: what this machine has, and what to type next, within 80 columns.

Shown at every login, so it must answer at once: drivers' tools and files tell the facts, torch is
never loaded. Must not know where a fact comes from beyond that.
"""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from pathlib import Path

import danlu
from danlu.container import free_memory_bytes, memory_bytes, num_processors
from danlu.device.cards import Card, Cards, find_cards
from danlu.device.processor import processor
from danlu.errors import DanluError
from danlu.files.home import danlu_home, rented_disk
from danlu.hub.names import STARTER, default_name
from danlu.hub.store import stored_models
from danlu.language import _
from danlu.program import own_command
from danlu.say import say
from danlu.units import readable_bytes

_COLUMNS = 80
# What a command does, as it is looked up; the first two depend on the models that are here.
NEXT_COMMANDS = {
    "danlu chat": "talk with the default model",
    "danlu data check ROWS.jsonl": "check your own rows",
    "danlu train --dataset ROWS.jsonl": "fine-tune on them",
    "danlu info": "ask torch what it sees; danlu --help lists all commands",
}


def print_banner() -> None:
    """Print the banner, as wide as the terminal but at most 80 columns."""
    from rich.console import Console
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.width = min(console.width, _COLUMNS)
    title = _("danlu {version}: fine-tune and serve Qwen3 on one machine")
    console.print(Rule(style="none"), f" {title.format(version=danlu.__version__)}", markup=False)
    for rows in (banner_facts(), next_commands()):
        table = Table.grid(padding=(0, 2, 0, 1), pad_edge=True)
        table.add_column(no_wrap=True)
        # Chinese has no spaces to wrap at: fold, never cut.
        table.add_column(overflow="fold")
        for name, text in rows.items():
            table.add_row(Text(name), Text(text))
        console.print(Rule(style="none"), table)
    if own_command() != "danlu":
        # Not through rich, which would break a long path.
        say(" " + _("danlu is not on PATH. So that the above runs:"), f" {_alias()}")
    console.print(Rule(style="none"))


def banner_facts() -> dict[str, str]:
    """Name each fact in the user's language, and say it."""
    found = find_cards()
    facts = _card_facts(found) if found.cards else {_("device"): _("CPU; no other device found")}
    _flags, name = processor()
    facts[_("processor")] = _("{name}, {count} usable").format(name=name, count=num_processors())
    facts[_("main memory")] = _space(free_memory_bytes(), memory_bytes())
    facts[_("disk")] = _disk(Path("/"))
    home = next(folder for folder in (danlu_home(), *danlu_home().parents) if folder.is_dir())
    if home.stat().st_dev != Path("/").stat().st_dev:
        facts[_("disk of models")] = _disk(home)
    if (rented := rented_disk()) is not None and not home.is_relative_to(rented):
        facts[_("data disk")] = _disk(rented)
    facts[_("models")] = _models()
    return facts


def next_commands() -> dict[str, str]:
    """Map commands that make sense now to what they do."""
    commands = {command: _(text) for command, text in NEXT_COMMANDS.items()}
    complete = [model.name for model in stored_models() if model.is_complete]
    if not complete:
        return {
            "danlu demo": _("see it all in two minutes, on the starter"),
            **commands,
            "danlu pull Qwen3-8B": _("download a Qwen3; danlu models lists all"),
        }
    return commands


def _alias() -> str:
    """Return what makes a shell know danlu, wherever it goes."""
    program, *words = shlex.split(own_command())
    command = shlex.join([str(Path(program).absolute()), *words])
    return f"alias danlu={shlex.quote(command)}"


def _card_facts(found: Cards) -> dict[str, str]:
    counts = Counter(card.name for card in found.cards)
    names = [f"{count} x {name}" if count > 1 else name for name, count in counts.items()]
    facts = {_("device"): ", ".join(names), _("memory"): _card_memory(found.cards)}
    facts[_("driver")] = _("{driver}, {toolkit} {version}").format(
        driver=found.driver or _("unknown"),
        toolkit=found.toolkit,
        version=found.toolkit_version or _("not found"),
    )
    return facts


def _card_memory(cards: tuple[Card, ...]) -> str:
    sizes = [_space(card.memory_bytes - card.used_bytes, card.memory_bytes) for card in cards]
    return "; ".join(
        f"{count} x {size}" if count > 1 else size for size, count in Counter(sizes).items()
    )


def _disk(folder: Path) -> str:
    usage = shutil.disk_usage(folder)
    return _("{folder}: {space}").format(folder=folder, space=_space(usage.free, usage.total))


def _space(free: int | None, total: int) -> str:
    if free is None:
        return readable_bytes(total)
    return _("{free} free of {total}").format(
        free=readable_bytes(free), total=readable_bytes(total)
    )


def _models() -> str:
    """Name the models that are here; the default first, wherever it is."""
    try:
        default = default_name()
    except DanluError as fault:  # a damaged file must not hide the rest at every login
        return f"{fault.what} {fault.fix}"
    shown = [_("{name} (default)").format(name=default)]
    if default != STARTER:
        shown.append(STARTER)
    for model in stored_models():
        if not model.is_complete:
            shown.append(_("{name} (not complete)").format(name=model.name))
        elif model.name != default:
            size = readable_bytes(model.num_bytes)
            shown.append(_("{name} ({size})").format(name=model.name, size=size))
    return _(", ").join(shown)
