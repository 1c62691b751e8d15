"""Where values come from: words of the command line, a YAML file, the environment.

Each source gives text (or several texts for a list) with its place; resolve.py turns text into
typed values. Words follow Hugging Face's style: `--key value`, `--key=value`, `--do_train` alone is
true, dashes and underscores are the same. `key=value` is read only after a first word that names
the settings file: it ends in .yaml or .yml, or in .json where the command takes no other words.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from danlu.errors import UsageError
from danlu.language import _
from danlu.reasons import as_sentence, library_reason, reason_of, system_reason
from danlu.settings.option_names import COMMAND_LINE, Names
from danlu.settings.schema import Option

BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
NULLS = ("null", "none")
_OF_A_MODEL = {"architectures", "model_type", "hidden_size"}
_KEY_VALUE = re.compile(r"([A-Za-z][\w-]*)=(.*)", re.DOTALL)
# What a word processor or a Chinese keyboard writes for hyphens.
_DASHES = "－—–―−﹣"
_NUMBER = re.compile(r"-(\d|\.\d)")


@dataclass(frozen=True, kw_only=True)
class Given:
    """One value as it was given: text, several texts, or None for YAML's null."""

    value: str | tuple[str, ...] | None
    origin: str


# Flags that every command has.
COMMON = ("help", "print_settings")


class CommandLine:
    """A command's words, read. Raises UsageError for a surplus word; unknown flags are noted.

    file: of settings, where the first word names one. asks: which of COMMON were given.
    """

    def __init__(self, names: Names, words: Sequence[str]) -> None:
        self.file: Path | None = None
        self.values: dict[str, Given] = {}
        self.asks: set[str] = set()
        self._names = names
        self._rest = deque(words)
        self._words: list[str] = []
        self._seen_a_word = False
        self._read()
        self._fill_places()

    def _read(self) -> None:
        plain_only = False
        while self._rest:
            word = self._rest.popleft()
            if plain_only or _is_value(word):
                self._plain(word)
            elif word == "--":
                plain_only = True
            elif word == "-h":
                self.asks.add("help")
            else:
                self._flag(word)

    def _flag(self, word: str) -> None:
        key, equals, text = word.lstrip("-").partition("=")
        if key.replace("-", "_") in COMMON and not equals:
            self.asks.add(key.replace("-", "_"))
            return
        if not word.startswith("--"):  # -max_steps: not a flag here, but nearly one
            key = word
        option = self._names.get(key, COMMAND_LINE, COMMON)
        value = text if equals else self._value_of(option)
        before = self.values.get(option.name)
        if option.takes_many and before is not None:  # --adapter a=1 --adapter b=2 names both
            value = (*_texts(before.value), *_texts(value))
        self._set(option, value)

    def _value_of(self, option: Option) -> str | tuple[str, ...]:
        word = self._rest[0] if self._rest else None
        if option.is_switch:
            values = (*BOOLEANS, *NULLS) if option.takes_null else tuple(BOOLEANS)
            return self._rest.popleft() if word is not None and word.lower() in values else "true"
        if word is None or not _is_value(word):
            if option.takes_bool:
                return "true"
            raise UsageError(
                _("--{name} needs a value.").format(name=option.name),
                why=_("The flag stands alone on the command line."),
                fix=_("Write --{name} VALUE, or --{name}=VALUE if it starts with --").format(
                    name=option.name
                ),
            )
        if not option.takes_many:
            return self._rest.popleft()
        texts = [self._rest.popleft()]
        while self._rest and _is_value(self._rest[0]) and self._key_value(self._rest[0]) is None:
            texts.append(self._rest.popleft())
        return texts[0] if len(texts) == 1 else tuple(texts)

    def _plain(self, word: str) -> None:
        self._refuse_dashes(word)
        first, self._seen_a_word = not self._seen_a_word, True
        # Where words have places of their own, a .json among them may be data; but no model.
        takes_data = [option.name for option in self._names.placed][:1] != ["model_name_or_path"]
        is_json = word.endswith(".json") and not (self._names.placed and takes_data)
        if first and (_names_a_file(word) or is_json):
            self.file = Path(word)
            return
        pair = self._key_value(word)
        if pair is not None:
            self._set(self._names.get(pair[0], COMMAND_LINE), pair[1])
        else:
            self._words.append(word)

    def _fill_places(self) -> None:
        """Give the words without a flag to the options that no flag has set, in order."""
        places = [option for option in self._names.placed if option.name not in self.values]
        for word in self._words[len(places) :]:
            raise UsageError(
                _("The word {word} has no meaning here.").format(word=repr(word)),
                why=_("The command takes no further words without a flag."),
                fix=self._meant(word),
            )
        if places and places[-1].position == -1:
            places[len(self._words) - 1 : -1] = []
        for option, word in zip(places, self._words, strict=False):
            self._set(option, word)

    def _meant(self, word: str) -> str:
        """Say how a word is given that no option without a flag takes: a file may be the data."""
        if self._names.has("dataset") and Path(word).exists():
            return f"--dataset {shlex.quote(word)}"
        return _("Write --key value; add --help to see all settings.")

    def _refuse_dashes(self, word: str) -> None:
        """Refuse a flag whose hyphens are other characters: it would pass for a text."""
        name = re.split("[=＝]", word.lstrip(_DASHES + "-"), maxsplit=1)[0]
        if word[0:1] and word[0] in _DASHES and self._names.has(name, COMMON):
            raise UsageError(
                _("The word {word} has no meaning here.").format(word=repr(word)),
                why=_("Its dashes are not the hyphens of a keyboard in English mode."),
                fix=_("Write --{name} with two plain hyphens.").format(name=name),
            )

    def _key_value(self, word: str) -> tuple[str, str] | None:
        match = _KEY_VALUE.fullmatch(word) if self.file else None
        return (match[1], match[2]) if match else None

    def _set(self, option: Option, value: str | tuple[str, ...]) -> None:
        self.values[option.name] = Given(value=value, origin=COMMAND_LINE)


def _texts(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else tuple((value or "").split(","))


def _names_a_file(word: str) -> bool:
    """Tell a settings file from a prompt that only ends like one."""
    return word.lower().endswith((".yaml", ".yml")) and (" " not in word or Path(word).is_file())


def _is_value(word: str) -> bool:
    return not word.startswith("-") or word == "-" or _NUMBER.match(word) is not None


def read_file(names: Names, path: Path) -> dict[str, Given]:
    """Read a settings file, YAML or JSON. Raises UsageError with file:line."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except FileNotFoundError as fault:
        raise UsageError(
            _("The settings file {place} cannot be read.").format(place=path),
            why=as_sentence(system_reason(fault)),
            fix=_("Check its name; you are in {folder}").format(folder=Path.cwd()),
        ) from fault
    except OSError as fault:
        raise _bad_file(str(path), system_reason(fault)) from fault
    except UnicodeDecodeError as fault:
        raise _bad_file(str(path), _("It is not UTF-8 text.")) from fault
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise _bad_file(place, library_reason(fault.problem or str(fault))) from fault
    except yaml.YAMLError as fault:
        raise _bad_file(str(path), reason_of(fault)) from fault
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise _bad_file(f"{path}:1", _("It must hold lines of the form key: value."))
    if {str(key.value) for key, _value in root.value} & _OF_A_MODEL:
        raise UsageError(
            _("{path} holds no settings.").format(path=path),
            why=_("It is the configuration of a model."),
            fix=_("Name the model's folder: --model {folder}").format(
                folder=shlex.quote(str(path.parent))
            ),
        )
    found: dict[str, Given] = {}
    for key, value in root.value:
        place = f"{path}:{key.start_mark.line + 1}"
        option = names.get(str(key.value), place)
        if option.name in found:
            raise _bad_file(place, _("{name} is given twice.").format(name=option.name))
        found[option.name] = Given(value=_text_of(value, place), origin=place)
    return found


def _text_of(node: yaml.Node, place: str) -> str | tuple[str, ...] | None:
    # Values stay text, as on the command line: YAML 1.1 would make `1e-4` a string, `no` a boolean.
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == "tag:yaml.org,2002:null" else str(node.value)
    if isinstance(node, yaml.MappingNode):
        return _json_of(node, place)
    if isinstance(node, yaml.SequenceNode) and all(
        isinstance(item, yaml.ScalarNode) for item in node.value
    ):
        return tuple(str(item.value) for item in node.value)
    raise _bad_file(place, _("A single value or a list of values is expected."))


def _json_of(node: yaml.Node, place: str) -> str:
    """Write a YAML mapping as JSON, as it would stand on the command line."""
    loader = yaml.SafeLoader("")
    try:
        return json.dumps(loader.construct_document(node), ensure_ascii=False)
    except (yaml.YAMLError, TypeError, ValueError) as fault:
        raise _bad_file(place, reason_of(fault)) from fault
    finally:
        loader.dispose()


def read_environment(names: Names, environ: Mapping[str, str]) -> dict[str, Given]:
    """Read DANLU_NAME for every setting; an empty variable counts as not set."""
    found: dict[str, Given] = {}
    for option in names.options.values():
        for name in (option.name, *option.aliases):
            variable = f"DANLU_{name.upper()}"
            if environ.get(variable) and option.name not in found:
                found[option.name] = Given(value=environ[variable], origin=variable)
    return found


def _bad_file(place: str, why: str) -> UsageError:
    return UsageError(
        _("The settings file {place} cannot be read.").format(place=place),
        why=as_sentence(why),
        fix=_("Correct the file; one setting a line: key: value"),
    )
