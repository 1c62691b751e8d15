"""The device that is meant by a name that somebody types: of the catalogue, of a driver, or short.

`rtx-4090-24g`, `NVIDIA GeForce RTX 4090`, `RTX4090` and `4090 24G` are one card; a `4090 D` and a
`4090 Laptop` are others. A card is never taken for another one that is spelt alike.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace

from danlu.device.datasheets import CATALOGUE, GIB, DeviceFacts, entries_named
from danlu.device.nvidia_cards import NVIDIA_CARDS
from danlu.errors import AmbiguousName, UsageError
from danlu.language import _

# `24G`, `80GB`, `48 GiB`, as a word of its own: the G of an A10G belongs to its name.
_MEMORY = re.compile(r"(?<![a-z0-9])(\d+)\s*g(?:i?b)?(?![a-z0-9])")
# What does not tell cards apart: the maker, the line, the plug, the kind of memory.
_NOISE = re.compile(
    r"nvidia|geforce|tesla|rtx|huawei|ascend|graphics|gpu|generation|active|sxm\d?|hbm\d?e?"
)
# How alike a name must be to an entry to count as mistyped, beside having the same numbers.
_MISTYPED = 0.75


def named_device(name: str) -> DeviceFacts:
    """Return the device that a name means, with the memory that it says.

    More memory than was sold is the same card rebuilt, as 4090s with 48 GB are. Raises
    AmbiguousName where several cards have the name, and UsageError where none has.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    wanted, memory = _in_short(name), _memory_in(name)
    found = [facts for facts in CATALOGUE.values() if wanted in _short_names()[facts.name]]
    found = found or [CATALOGUE[entry] for entry in entries_named("npu", wanted.upper())]
    if not found:
        raise _unknown(name, memory)
    exact = [facts for facts in found if memory in (0, _memory_in(facts.name))]
    if len(exact) == 1:
        return exact[0]
    if not exact and len(found) == 1 and memory > _memory_in(found[0].name):
        return _rebuilt(found[0], memory)
    names = [facts.name for facts in exact or found]
    if len(names) == 1:
        raise UsageError(
            _("There is no {name} with {memory}g.").format(name=names[0], memory=memory),
            why=_("Cards are rebuilt with more memory than they were sold with, not with less."),
            fix=f"--device {names[0]}",
        )
    raise AmbiguousName(
        _("{name} can mean several cards.").format(name=name),
        name=name,
        choices=names,
        why=_("There are {names}.").format(names=", ".join(names)),
        fix=f"--device {names[0]}",
    )


def _unknown(name: str, memory: int) -> UsageError:
    same_size = [each for each in CATALOGUE if memory and _memory_in(each) == memory]
    near = _mistyped(name.casefold())
    fix = _("For a rough plan, name one with as much memory; a card of this machine needs no name.")
    return UsageError(
        _("There is no data sheet of a device {name}.").format(name=name),
        why=_("Those with {memory}g are {names}.").format(memory=memory, names=", ".join(same_size))
        if same_size
        else _("Known are {names}.").format(names=", ".join(CATALOGUE)),
        fix=_("Did you mean {name}?").format(name=f"--device {near}") if near else fix,
    )


def _mistyped(name: str) -> str | None:
    """Return the entry that was mistyped: spelt alike, and with the same numbers."""
    numbers = re.findall(r"\d+", name)
    same = [entry for entry in CATALOGUE if re.findall(r"\d+", entry) == numbers]
    return next(iter(difflib.get_close_matches(name, same, 1, _MISTYPED)), None)


def _rebuilt(facts: DeviceFacts, memory: int) -> DeviceFacts:
    """Return a card with other memory, of which as large a share can be allocated."""
    sold = _memory_in(facts.name)
    size = facts.memory_bytes * memory // sold
    product = facts.description.partition(",")[0]
    return replace(
        facts,
        name=facts.name.replace(f"-{sold}g", f"-{memory}g"),
        description=f"{product}, {size / GIB:.1f} GiB",
        memory_bytes=size,
    )


def _short_names() -> dict[str, set[str]]:
    """By entry, its names without what does not tell cards apart."""
    shorts = {entry: {_in_short(entry)} for entry in CATALOGUE}
    for card in NVIDIA_CARDS:
        shorts[card.entry].update(map(_in_short, card.names))
    return shorts


def _in_short(name: str) -> str:
    """Write a name without memory, maker, spaces and signs: `NVIDIA GeForce RTX 4090 D`: 4090d."""
    bare = _MEMORY.sub(" ", name.casefold())
    return _NOISE.sub("", re.sub(r"[^a-z0-9]", "", bare))


def _memory_in(name: str) -> int:
    """Return the gigabytes that a name says; 0 where it says none."""
    found = _MEMORY.search(name.casefold())
    return int(found[1]) if found else 0
