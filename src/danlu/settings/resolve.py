"""From the command line, a YAML file, the environment and defaults to one checked settings object.

Precedence: flags and key=value, then the YAML file, then DANLU_* variables, then defaults. Every
value remembers where it came from. Flags are written as Hugging Face's programs accept them:
`--do_train` alone is true, `--fp16 false`, `--key value`, `--key=value`, dashes or underscores.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError

from danlu.errors import UsageError
from danlu.language import _
from danlu.settings.schema import Settings, allows_none, is_boolean, names, positionals, type_name

S = TypeVar("S", bound=Settings)

_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_NOTHING = {"null", "none", "~"}
# Flags of the mechanism itself, known to every command.
PRINT_SETTINGS = "print_settings"
HELP = "help"


@dataclass(frozen=True, kw_only=True)
class Resolved(Generic[S]):
    """The settings, and for each field where its value came from."""

    values: S
    origins: dict[str, str]
    wants_help: bool
    wants_print: bool


def resolve(
    cls: type[S], argv: Sequence[str], environ: Mapping[str, str], *, yaml_file: bool = False
) -> Resolved[S]:
    """Resolve a command's settings.

    yaml_file: whether the first word may be a settings file. Raises UsageError naming the nearest
    setting for an unknown one, and key, value and origin for one of the wrong type.
    """
    words = list(argv)
    found: dict[str, tuple[Any, str]] = {}
    for field in cls.model_fields:
        variable = f"DANLU_{field.upper()}"
        if variable in environ:
            found[field] = (environ[variable], variable)
    from_file = yaml_file and bool(words) and words[0].endswith((".yaml", ".yml"))
    if from_file:
        found |= _read_yaml(cls, Path(words.pop(0)))
    reader = _Words(cls, words, key_value=from_file)
    found |= reader.read()
    values = {field: _converted(cls, field, value) for field, (value, _o) in found.items()}
    try:
        settings = cls(**values)
    except ValidationError as problem:
        raise _wrong_value(cls, problem, found) from problem
    origins = {f: found[f][1] if f in found else "default" for f in cls.model_fields}
    return Resolved(
        values=settings,
        origins=origins,
        wants_help=reader.wants_help,
        wants_print=reader.wants_print,
    )


class _Words:
    """The words of a command line, read from left to right."""

    def __init__(self, cls: type[Settings], words: list[str], *, key_value: bool) -> None:
        self._cls = cls
        self._words = words
        self._key_value = key_value
        self._table = names(cls)
        self.wants_help = False
        self.wants_print = False

    def read(self) -> dict[str, tuple[Any, str]]:
        """Return the value and origin of every field that was given."""
        found: dict[str, tuple[Any, str]] = {}
        free = positionals(self._cls)
        while self._words:
            word = self._words.pop(0)
            if word in ("-h", "--help"):
                self.wants_help = True
            elif word.startswith("--"):
                self._read_flag(word[2:], found)
            elif self._key_value and "=" in word:
                key, _equals, value = word.partition("=")
                found[self._field(key)] = (value, word)
            elif free:
                found[free.pop(0)] = (word, _("command line"))
            else:
                raise UsageError(
                    _("The word {word} is not expected here.").format(word=word),
                    why=_("Settings are given as --name value."),
                    fix=_("See the command's --help; quote values that hold spaces."),
                )
        return found

    def _read_flag(self, text: str, found: dict[str, tuple[Any, str]]) -> None:
        key, equals, value = text.partition("=")
        if key.replace("-", "_") == PRINT_SETTINGS:
            self.wants_print = True
            return
        field = self._field(key)
        origin = f"--{key}"
        if equals:
            found[field] = (value, origin)
            return
        info = self._cls.model_fields[field]
        if is_boolean(info):
            word = self._words[0].lower() if self._words else ""
            takes = word in _BOOLEANS or (allows_none(info) and word in _NOTHING)
            found[field] = (self._words.pop(0) if takes else True, origin)
            return
        if not self._words or self._words[0].startswith("--"):
            raise UsageError(
                _("{flag} needs a value.").format(flag=origin),
                why=_("It expects: {kind}.").format(kind=type_name(info)),
                fix=f"{origin} VALUE",
            )
        found[field] = (self._words.pop(0), origin)

    def _field(self, key: str) -> str:
        return _field(self._table, key, f"--{key}")


def _field(table: Mapping[str, str], key: str, shown: str) -> str:
    name = key.strip().replace("-", "_")
    if name in table:
        return table[name]
    nearest = difflib.get_close_matches(name, table, n=1, cutoff=0.0)
    raise UsageError(
        _("There is no setting {name}.").format(name=shown),
        why=_("It is not one of this command's settings."),
        fix=_("Did you mean --{nearest}? See --help for all.").format(nearest=nearest[0]),
    )


def _read_yaml(cls: type[Settings], path: Path) -> dict[str, tuple[Any, str]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UsageError(
            _("The settings file {path} cannot be read.").format(path=path),
            why=str(problem.strerror or problem),
            fix=_("Check the path."),
        ) from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UsageError(
            _("{place} is not valid YAML.").format(place=place),
            why=str(getattr(problem, "problem", None) or problem),
            fix=_("Write one setting a line: name: value"),
        ) from problem
    if content is not None and not isinstance(content, dict):
        raise UsageError(
            _("{place} is not valid YAML.").format(place=path),
            why=_("It holds no names with values."),
            fix=_("Write one setting a line: name: value"),
        )
    table = names(cls)
    return {
        _field(table, str(key), f"{key} ({path})"): (value, f"{path}: {key}")
        for key, value in (content or {}).items()
    }


def _converted(cls: type[Settings], field: str, value: Any) -> Any:
    """Turn a word into what pydantic cannot know: nothing, and the spellings of true and false."""
    info = cls.model_fields[field]
    if not isinstance(value, str):
        return value
    if allows_none(info) and value.lower() in _NOTHING:
        return None
    if is_boolean(info) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    return value


def _wrong_value(
    cls: type[Settings], problem: ValidationError, found: Mapping[str, tuple[Any, str]]
) -> UsageError:
    first = problem.errors()[0]
    field = str(first["loc"][0])
    value, origin = found[field]
    return UsageError(
        _("{value} is no value for {field}.").format(value=repr(value), field=field),
        why=_("{reason} (from {origin}).").format(reason=first["msg"], origin=origin),
        fix=_("Give: {kind}").format(kind=type_name(cls.model_fields[field])),
    )
