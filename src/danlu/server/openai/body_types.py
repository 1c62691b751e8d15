"""What all request bodies have in common: strict types, no unknown field, text that can be encoded.

A field of OpenAI's that cannot be honoured is either refused, saying why, or accepted and listed
in the answer's header `x-danlu-ignored`. Nothing is dropped silently. What is wrong with a field is
said in English, as pydantic says it, and never repeats what the user wrote.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, model_validator

IGNORED_HEADER = "x-danlu-ignored"
# More than any object needs; each one that is wrong would cost an error of its own.
_MOST_FIELDS = 128


class Body(BaseModel):
    """A JSON object whose fields are all known and of exactly their types."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _MOST_FIELDS:
            raise ValueError(f"It has {len(value)} fields, at most {_MOST_FIELDS} are read.")
        return value


def encodable(text: str) -> str:
    """Return the text. Raises ValueError for half a surrogate pair, which no encoding can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("It holds half a character (a lone surrogate).") from None
    return text


Text = Annotated[str, AfterValidator(encodable)]


def _checked_object(value: dict[str, Any]) -> dict[str, Any]:
    try:
        encodable(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except RecursionError:
        raise ValueError("It is nested too deeply.") from None
    return value


# JSON of the user's that is passed on as it is.
JsonObject = Annotated[dict[str, Any], AfterValidator(_checked_object)]


def are_token_ids(value: object) -> bool:
    """Tell whether a value is a list of numbers; a million takes milliseconds."""
    return isinstance(value, list) and set(map(type, value)) <= {int}


def refused(why: str) -> PlainValidator:
    """Refuse every value but null, saying why."""

    def check(value: object) -> None:
        if value is not None:
            raise ValueError(why)

    return PlainValidator(check, json_schema_input_type=None)


class AcceptedOnly(Body):
    """OpenAI's fields that change nothing about an answer here."""

    metadata: Any = None
    moderation: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    verbosity: Any = None

    def ignored(self) -> list[str]:
        """List the fields that were given and will not be honoured."""
        names = AcceptedOnly.model_fields
        return [name for name in names if getattr(self, name) is not None]
