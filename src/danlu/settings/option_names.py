"""The names of a command's settings: own names, aliases, those of other programs.

A name that does not exist is answered with the nearest one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from danlu.errors import UsageError
from danlu.language import _
from danlu.settings.schema import Option, Settings, options_of

COMMAND_LINE = "command line"


def shown_origin(origin: str) -> str:
    """Write an origin for people; places and names stay as they are."""
    return _("command line") if origin == COMMAND_LINE else origin


class Names:
    """A command's options by any of their names: own name, alias, dashes for underscores.

    placed: the options that words without a flag fill, in order.
    """

    def __init__(self, cls: type[Settings]) -> None:
        self.options = options_of(cls)
        placed = [option for option in self.options.values() if option.position is not None]
        self.placed = sorted(placed, key=lambda option: option.position or 0)
        self._own = {n: o for o in self.options.values() for n in (o.name, *o.aliases)}
        # An option of another program takes one value, or stands alone.
        any_value = (str, bool, type(None))
        others = {name: Option(name=name, help="", types=any_value) for name in cls.FOREIGN}
        self._known = {**others, **self._own}

    def get(self, key: str, origin: str, extra: Sequence[str] = ()) -> Option:
        """Look a name up. Raises UsageError naming the nearest one."""
        name = key.replace("-", "_")
        if name in self._known:
            return self._known[name]
        near = difflib.get_close_matches(name, [*self._own, *extra], 1, 0.5)
        raise UsageError(
            _("There is no setting named {key}").format(key=key),
            why=_("it is given in: {origin}").format(origin=shown_origin(origin)),
            fix=_("did you mean {name}?").format(name=near[0])
            if near
            else _("add --help to the command to see all settings"),
        )
