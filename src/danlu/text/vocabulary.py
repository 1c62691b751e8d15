"""A tokenizer's vocabulary as data, for programs with a tokenizer of their own: tokens and merges.

Knows tokenizer.json of byte-level BPE as Qwen3 has it; whatever splits or merges otherwise is
refused, since such a program would make other ids of the same text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.errors import DataError
from danlu.files.os_errors import readable
from danlu.files.regular import read_regular
from danlu.language import _
from danlu.text.tokenizer import MOST_FILE_BYTES, TOKENIZER_FILE

# How Qwen2 and Qwen3 cut a text before merging.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Tokens by id, in the byte alphabet (added ones as they are), and the merges, best first.

    added: by id, whether it is a control token.
    """

    tokens: Mapping[int, str]
    merges: tuple[tuple[str, str], ...]
    added: Mapping[int, bool]


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read the vocabulary of a model folder whose tokenizer has been loaded before.

    Raises DataError where it does not work as Qwen3's.
    """
    path = folder / TOKENIZER_FILE
    with readable(path):
        fields: dict[str, Any] = json.loads(read_regular(path, most_bytes=MOST_FILE_BYTES))
    model, added = fields["model"], fields.get("added_tokens") or []
    splits = (fields.get("pre_tokenizer") or {}).get("pretokenizers") or []
    patterns = [each.get("pattern", {}).get("Regex") for each in splits if "pattern" in each]
    if model.get("type") != "BPE" or patterns != [_SPLIT] or model.get("ignore_merges"):
        raise DataError(
            _("The tokenizer {path} cannot be exported.").format(path=path),
            why=_("It cuts or merges text otherwise than Qwen3's, which other programs know."),
            fix=_("Use the tokenizer.json that came with this model."),
        )
    tokens = {id_: token for token, id_ in model["vocab"].items()}
    tokens |= {entry["id"]: entry["content"] for entry in added}
    pairs = (each.split(" ") if isinstance(each, str) else each for each in model["merges"])
    return Vocabulary(
        tokens=tokens,
        merges=tuple((first, second) for first, second in pairs),
        added={entry["id"]: bool(entry["special"]) for entry in added},
    )
