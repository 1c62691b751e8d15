"""What all request bodies have in common: strict types, a fate for every field, encodable text.

What would change the answer and cannot be served is refused, saying what to use instead. What asks
for nothing here is accepted and, where it holds something, listed in the answer's header
`x-danlu-ignored`: nothing is dropped silently. What is wrong with a field is said in English, as
pydantic says it, and never repeats what the user wrote.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from danlu.language import _
from danlu.server.openai.foreign_fields import ForeignField, ForeignFields

IGNORED_HEADER = "x-danlu-ignored"
# Names in the header come from the client: so many at most, and so long.
_MOST_IGNORED = 20
_LONGEST_NAME = 40
# More than any object needs; each one that is wrong would cost work of its own.
_MOST_FIELDS = 128
_ANNOTATION = ForeignField()

AnyBody = TypeVar("AnyBody", bound="Body")


class Body(BaseModel):
    """A JSON object: the class's fields, each of exactly its type, and fields that ask for nothing.

    FOREIGN: further fields with their fates. ANNOTATED: whether all others are notes of the
    client's, which are accepted; else they are refused, unless they are null.
    """

    FOREIGN: ClassVar[ForeignFields] = {}
    ANNOTATED: ClassVar[bool] = False

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )
    _ignored: list[str] = PrivateAttr(default_factory=list)

    @model_validator(mode="wrap")
    @classmethod
    def _sort_fields(
        cls: type[AnyBody], value: Any, handler: ModelWrapValidatorHandler[AnyBody]
    ) -> AnyBody:
        """Give the class its own fields; decide about the others, in the order of the request."""
        if not isinstance(value, dict):
            return handler(value)
        if len(value) > _MOST_FIELDS:
            raise ValueError(
                _("It has {count} fields, at most {most} are read.").format(
                    count=len(value), most=_MOST_FIELDS
                )
            )
        own = {field.alias or name for name, field in cls.model_fields.items()}
        fields = {name: value[name] for name in value if name in own}
        ignored: list[str] = []
        for name in (name for name in value if name not in own):
            foreign = cls.FOREIGN.get(name, _ANNOTATION if cls.ANNOTATED else None)
            if value[name] is None or (foreign and foreign.asks_for_nothing(value[name])):
                continue
            if foreign is None:
                raise _refusal(name, _no_such_field(name, own))
            if foreign.same_as:
                if fields.get(foreign.same_as) not in (None, value[name]):
                    raise _refusal(name, _("It contradicts {name}.").format(name=foreign.same_as))
                fields[foreign.same_as] = value[name]
            elif foreign.advice:
                raise _refusal(name, _(foreign.advice))
            elif len(ignored) < _MOST_IGNORED:
                ignored.append(re.sub(r"[^\w.-]", "?", name[:_LONGEST_NAME], flags=re.ASCII))
        body = handler(fields)
        body._ignored = sorted(ignored)
        return body

    def ignored(self) -> list[str]:
        """List what was given and will not be honoured, inner fields as `messages.id`."""
        names = dict.fromkeys(self._ignored)
        for name, field in type(self).model_fields.items():
            for body in _bodies(getattr(self, name)):
                names |= dict.fromkeys(f"{field.alias or name}.{inner}" for inner in body.ignored())
        return list(names)


def ignored_header(names: Sequence[str]) -> Mapping[str, str]:
    """Return the header that lists what is not honoured, if there is anything."""
    more = ["..."] if len(names) > _MOST_IGNORED else []
    shown = ", ".join([*names[:_MOST_IGNORED], *more])
    return {IGNORED_HEADER: shown} if shown else {}


def _bodies(value: object) -> Iterator[Body]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, Body):
            yield item


def _no_such_field(name: str, own: set[str]) -> str:
    near = difflib.get_close_matches(name[:_LONGEST_NAME], sorted(own), 1)
    if near:
        return _("There is no such field; did you mean {name}?").format(name=near[0])
    return _("There is no such field.")


def _refusal(name: str, why: str) -> ValidationError:
    """Refuse a field by its name, as pydantic would."""
    error = PydanticCustomError("refused", "{why}", {"why": why})
    shown = name.encode("utf-8", "replace").decode()
    return ValidationError.from_exception_data(
        "body", [{"type": error, "loc": (shown,), "input": None}]
    )


def encodable(text: str) -> str:
    """Return the text. Raises ValueError for half a surrogate pair, which no encoding can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(_("It holds half a character (a lone surrogate).")) from None
    return text


Text = Annotated[str, AfterValidator(encodable)]


def _whole(value: object) -> object:
    """Read 12.0, which is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


def _checked_object(value: dict[str, Any]) -> dict[str, Any]:
    try:
        encodable(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except RecursionError:
        raise ValueError(_("It is nested too deeply.")) from None
    return value


# JSON of the user's that is passed on as it is.
JsonObject = Annotated[dict[str, Any], AfterValidator(_checked_object)]


def are_token_ids(value: object) -> bool:
    """Tell whether a value is a list of numbers; a million takes milliseconds."""
    return isinstance(value, list) and set(map(type, value)) <= {int}
