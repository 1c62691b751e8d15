"""What an answer must look like, as it is asked for: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GrammarKind = Literal["json_schema", "json_object", "regex", "choice", "lark"]


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """What an answer must look like.

    source: the schema as JSON, "" for json_object, the expression, the choices as a JSON list of
    texts, or the Lark grammar.
    """

    kind: GrammarKind
    source: str
