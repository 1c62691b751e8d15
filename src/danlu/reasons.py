"""Why the operating system or a library refuses, in the chosen language.

Their sentences are a table, as data: in English they stay as they are, the catalogue has them in
Chinese. One that is not in the table is quoted, so that a reader sees whose words these are.
"""

from __future__ import annotations

import errno
import re
import socket
from functools import lru_cache

from danlu.language import _, chosen_language

# What users meet, by errno; the other reasons are the system's own words.
SYSTEM_REASONS = {
    errno.ENOENT: "there is no such file or folder",
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EISDIR: "it is a folder",
    errno.EEXIST: "it exists already",
    errno.ENOTEMPTY: "the folder is not empty",
    errno.EACCES: "permission denied",
    errno.EPERM: "the operation is not permitted",
    errno.EROFS: "the disk can only be read",
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be too large",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EIO: "the disk failed to read or write",
    errno.ELOOP: "its links lead in a circle",
    errno.EBUSY: "it is in use",
    errno.ESTALE: "the network disk no longer has the file",
    errno.EXDEV: "it is on another disk",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
    errno.ENOMEM: "not enough memory",
    errno.ENOEXEC: "it is not a program of this machine",
    errno.EPIPE: "the other side has closed the connection",
    errno.EADDRINUSE: "the address is in use",
    errno.EADDRNOTAVAIL: "this machine does not have the address",
    errno.ECONNREFUSED: "the connection is refused",
    errno.ECONNRESET: "the other side has cut the connection",
    errno.ECONNABORTED: "the connection was broken off",
    errno.ETIMEDOUT: "no answer came in time",
    errno.ENETUNREACH: "the network cannot be reached",
    errno.EHOSTUNREACH: "the machine cannot be reached",
    errno.ENETDOWN: "the network is down",
}

# What a name server answers, by the number that the system gives it.
NAME_REASONS = {
    socket.EAI_NONAME: "the host name is not known",
    socket.EAI_AGAIN: "the name server does not answer",
    socket.EAI_FAIL: "the name server failed",
}

# Words of Python, pydantic, PyYAML and Jinja2, with fields for what varies.
LIBRARY_SENTENCES = (
    # JSON, as Python reads it
    "{what}: line {line} column {column} (char {at})",
    "Expecting value",
    "Expecting property name enclosed in double quotes",
    "Expecting ':' delimiter",
    "Expecting ',' delimiter",
    "Extra data",
    "Unterminated string starting at",
    "Invalid control character at",
    "Invalid \\escape",
    "Invalid \\uXXXX escape",
    "Illegal trailing comma before end of object",
    "Illegal trailing comma before end of array",
    # text
    "'{codec}' codec can't decode byte {byte} in position {at}: {what}",
    "'{codec}' codec can't decode bytes in position {at}: {what}",
    "'{codec}' codec can't encode character {byte} in position {at}: {what}",
    "'{codec}' codec can't encode characters in position {at}: {what}",
    "invalid start byte",
    "invalid continuation byte",
    "unexpected end of data",
    "surrogates not allowed",
    # JSON, as pydantic reads it
    "{what} at line {line} column {column}",
    "expected value",
    "expected ident",
    "expected `:`",
    "expected `,` or `}}`",
    "expected `,` or `]`",
    "EOF while parsing a value",
    "EOF while parsing a string",
    "EOF while parsing a list",
    "EOF while parsing an object",
    "trailing comma",
    "trailing characters",
    "key must be a string",
    "invalid number",
    "number out of range",
    "invalid escape",
    "lone leading surrogate in hex escape",
    "unexpected end of hex escape",
    "control character (\\u0000-\\u001F) found while parsing a string",
    "recursion limit exceeded",
    # values, as pydantic checks them
    "Field required",
    "Extra inputs are not permitted",
    "Input should be a valid string",
    "Input should be a valid integer",
    "Input should be a valid integer, unable to parse string as an integer",
    "Input should be a valid integer, got a number with a fractional part",
    "Input should be a valid number",
    "Input should be a valid number, unable to parse string as a number",
    "Input should be a finite number",
    "Input should be a valid boolean",
    "Input should be a valid boolean, unable to interpret input",
    "Input should be a valid list",
    "Input should be a valid tuple",
    "Input should be a valid dictionary",
    "Input should be a valid dictionary or object to extract fields from",
    "Input should be a valid dictionary or instance of {name}",
    "Input should be an object",
    "Input should be None",
    "Input should be greater than {limit}",
    "Input should be greater than or equal to {limit}",
    "Input should be less than {limit}",
    "Input should be less than or equal to {limit}",
    "Input should be '{choices}'",
    "Input tag '{tag}' found using '{field}' does not match any of the expected tags: {tags}",
    "Input tag '{tag}' found using {field} does not match any of the expected tags: {tags}",
    "Unable to extract tag using discriminator {field}",
    "String should have at least {least} character",
    "String should have at least {least} characters",
    "String should have at most {most} character",
    "String should have at most {most} characters",
    "String should match pattern '{pattern}'",
    "Input should be a valid string, unable to parse raw data as a unicode string",
    "{kind} should have at least {least} item after validation, not {count}",
    "{kind} should have at least {least} items after validation, not {count}",
    "{kind} should have at most {most} item after validation, not {count}",
    "{kind} should have at most {most} items after validation, not {count}",
    "{kind} should have at most {most} items after validation, not more",
    # YAML
    "mapping values are not allowed here",
    "mapping keys are not allowed here",
    "sequence entries are not allowed here",
    "could not find expected ':'",
    "expected <block end>, but found {found}",
    "expected ',' or ']', but got {found}",
    "expected ',' or '}}', but got {found}",
    "expected the node content, but found {found}",
    "expected '<document start>', but found {found}",
    "expected a comment or a line break, but found {found}",
    "expected alphabetic or numeric character, but found {found}",
    "expected chomping or indentation indicators, but found {found}",
    "found character {found} that cannot start any token",
    "found unknown escape character {found}",
    "found unexpected end of stream",
    "found unexpected document separator",
    "found undefined alias {name}",
    "found undefined tag handle {name}",
    "second occurrence",
    "found unhashable key",
    "could not determine a constructor for the tag {name}",
    "but found another document",
    "unacceptable character #x{number}: special characters are not allowed",
    # CSV
    "field larger than field limit ({most})",
    "line contains NUL",
    "unexpected end of data in quoted field",
    # the network
    "timed out",
    "The read operation timed out",
    "The handshake operation timed out",
    "_ssl.c:{line}: The handshake operation timed out",
    "Remote end closed connection without response",
    "IncompleteRead({count} bytes read)",
    "IncompleteRead({count} bytes read, {more} more expected)",
    "unknown url type: {kind}",
    "no host given",
    "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {detail} (_ssl.c:{line})",
    "[SSL: {name}] {detail} (_ssl.c:{line})",
    # HTTP's names of its states
    "Bad Request",
    "Unauthorized",
    "Forbidden",
    "Not Found",
    "Method Not Allowed",
    "Request Timeout",
    "Requested Range Not Satisfiable",
    "Too Many Requests",
    "Internal Server Error",
    "Bad Gateway",
    "Service Unavailable",
    "Gateway Timeout",
    # Python
    "maximum recursion depth exceeded",
    "division by zero",
    "could not convert string to float: {text}",
    "invalid literal for int() with base 10: {text}",
)


def system_reason(fault: OSError) -> str:
    """Say in the chosen language why the operating system refused."""
    import ssl  # it takes a while, and most commands never fail

    if isinstance(fault, ssl.SSLError):  # its numbers are others
        return library_reason(str(fault))
    table = NAME_REASONS if isinstance(fault, socket.gaierror) else SYSTEM_REASONS
    reason = table.get(fault.errno or 0)
    return _(reason) if reason else library_reason(fault.strerror or str(fault))


def reason_of(fault: BaseException) -> str:
    """Say in the chosen language, on one line, why something failed."""
    inner = getattr(fault, "reason", None)  # what urllib has caught
    if isinstance(inner, BaseException):
        return reason_of(inner)
    if isinstance(fault, OSError):
        return system_reason(fault)
    return library_reason(str(fault).strip().partition("\n")[0] or type(fault).__name__)


def as_sentence(reason: str) -> str:
    """Make a sentence of a reason, for a line of its own."""
    text = reason.rstrip(".。")
    if re.match("[a-z]+ ", text):  # a word; names of fields stay as they are written
        text = text[0].upper() + text[1:]
    return _("{reason}.").format(reason=text)


def library_reason(words: str) -> str:
    """Say in the chosen language what a library has said; what is not known is quoted.

    A sentence of danlu's, in Chinese already, stays as it is.
    """
    if chosen_language() == "en" or not words or re.search("[\u4e00-\u9fff]", words):
        return words
    known = _known(words)
    return known if known else _("in its own words: “{words}”").format(words=words)


def _known(words: str) -> str:
    """Translate a sentence of the table, and what stands in its fields; empty for others."""
    for template, pattern in _patterns():
        found = pattern.fullmatch(words)
        if found:
            parts = {name: _known(part) or part for name, part in found.groupdict().items()}
            return _(template).format(**parts)
    return ""


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    # The longest first: a field takes whatever a shorter one would leave.
    sentences = sorted(LIBRARY_SENTENCES, key=len, reverse=True)
    return tuple((sentence, re.compile(_pattern(sentence))) for sentence in sentences)


def _pattern(sentence: str) -> str:
    """Write a template as a regular expression with a group for each of its fields."""
    text = re.escape(sentence.replace("{{", "{").replace("}}", "}"))
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", text)
