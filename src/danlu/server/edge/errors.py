"""What a request is answered with when it cannot be served: OpenAI's error shape.

A message never repeats text of an unexpected exception: that goes to the log, with the request's
id. Source of the shape: OpenAI's API reference, "Error codes".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """An answer with an error status.

    kind: OpenAI's `type`, such as invalid_request_error; code: what programs look at; param: the
    field at fault. extra: further fields beside these; headers: of the HTTP answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
                **self.extra,
            }
        }
