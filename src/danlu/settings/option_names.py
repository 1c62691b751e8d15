"""The names of a command's settings: own names, aliases, those of other programs.

Names that do not exist, and options that would be missed, are refused together: a settings file
needs one run to be put right, not one for each of its lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from danlu.errors import UsageError
from danlu.language import _
from danlu.program import as_typed
from danlu.settings.schema import Option, Settings, options_of

# Where a value comes from, if not a file or a variable; a preset is followed by its name.
COMMAND_LINE, PRESET, DEFAULT, PAGE = "command line", "preset", "default", "page"
# An option that is not ours takes one value, or stands alone.
_ANY_VALUE = (str, bool, type(None))


def shown_origin(origin: str) -> str:
    """Write an origin for people; places and names stay as they are."""
    kind, _gap, name = origin.partition(" ")
    if kind == PRESET:
        return _("preset {name}").format(name=name)
    known = {COMMAND_LINE: _("command line"), DEFAULT: _("default"), PAGE: _("this page")}
    return known.get(origin, origin)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A setting that cannot be used: what it is, where it was given, what to do instead."""

    name: str
    origin: str
    what: str
    why: str
    fix: str


@dataclass(kw_only=True)
class Refusals:
    """The settings of one command that cannot be used, in the order in which they were met."""

    found: list[Refused] = field(default_factory=list)

    def add(self, name: str, origin: str, *, what: str, fix: str, detail: str = "") -> None:
        """Note one setting."""
        why = _("It is given in: {origin}; {detail}.") if detail else _("It is given in: {origin}.")
        why = why.format(origin=shown_origin(origin), detail=detail)
        self.found.append(Refused(name=name, origin=origin, what=what, why=why, fix=fix))

    def check(self) -> None:
        """Raise UsageError for all that was noted, if anything was."""
        if len(self.found) == 1:
            (one,) = self.found
            raise UsageError(one.what, why=one.why, fix=one.fix)
        if self.found:
            names = ", ".join(dict.fromkeys(refused.name for refused in self.found))
            lines = [
                _("{origin}: {what}; {fix}").format(
                    origin=shown_origin(r.origin), what=r.what, fix=as_typed(r.fix)
                )
                for r in self.found
            ]
            raise UsageError(
                _("Some settings cannot be used: {names}.").format(names=names),
                why=tuple(dict.fromkeys(lines)),
                fix=_("Change or remove them; add --help to the command to see all settings."),
            )


class Names:
    """A command's options by any of their names: own name, alias, dashes for underscores.

    placed: the options that words without a flag fill, in order. refusals: the names that were
    looked up and do not exist.
    """

    def __init__(self, cls: type[Settings]) -> None:
        self.options = options_of(cls)
        self.refusals = Refusals()
        placed = [option for option in self.options.values() if option.position is not None]
        self.placed = sorted(placed, key=lambda option: (option.position == -1, option.position))
        self._own = {n: o for o in self.options.values() for n in (o.name, *o.aliases)}
        others = {name: Option(name=name, help="", types=_ANY_VALUE) for name in cls.FOREIGN}
        self._known = {**others, **self._own}

    def has(self, key: str, extra: Sequence[str] = ()) -> bool:
        """Tell whether a name is known."""
        name = key.replace("-", "_")
        return name in self._known or name in extra

    def get(self, key: str, origin: str, extra: Sequence[str] = ()) -> Option:
        """Look a name up; one that does not exist is noted, with the nearest one that does."""
        name = key.replace("-", "_")
        if name in self._known:
            return self._known[name]
        near = self._near(name, extra)
        self.refusals.add(
            key,
            origin,
            what=_("There is no setting named {key}").format(key=key),
            fix=_("Did you mean {name}?").format(name=near)
            if near
            else _("Add --help to the command to see all settings."),
        )
        return Option(name=name, help="", types=_ANY_VALUE)

    def _near(self, name: str, extra: Sequence[str]) -> str:
        """Return the known name that is most likely meant, or all that share the initials."""
        own = [*self._own, *extra]
        part = f"_{name.rstrip('s')}"
        initials = [known for known in own if name == "".join(w[0] for w in known.split("_"))]
        found = (
            difflib.get_close_matches(name, own, 1, 0.8)
            or [known for known in own if len(part) > 3 and part in f"_{known}"][:1]
            or initials
            or difflib.get_close_matches(name, own, 1, 0.5)
            or difflib.get_close_matches(name, self._known, 1, 0.8)
        )
        return ", ".join(found)
