"""A data file as text: UTF-8 with or without a byte order mark, read in pieces.

Text in another encoding ends the reading with the command that converts it. Knows bytes and lines;
must not know what the text means.
"""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from danlu.data.findings import BadRow
from danlu.files.regular import open_regular
from danlu.language import _

# No row of text is that long; what is, is a broken file that would fill the memory. Counted in
# bytes, or in characters where the bytes are no longer known.
MAX_ROW_BYTES = 32 << 20
# Many times Qwen3's context: to tokenize more takes gigabytes, and none of it could be learned.
MOST_ROW_CHARACTERS = 1 << 20
PIECE_BYTES = 1 << 20
_HEAD_BYTES = 1024
_SAMPLE_BYTES = 1 << 16
# The order matters: UTF-32's mark begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class BrokenFile(BadRow):
    """A file that cannot be read from `line` on; its rest is unknown."""

    def __init__(self, kind: str, line: int, what: str, fix: str) -> None:
        super().__init__(kind, what, fix)
        self.line = line


def read_lines(file: Path) -> Iterator[str]:
    """Yield the lines with their ends; only a newline ends a line. Raises BrokenFile, OSError."""
    with open_regular(file) as raw:
        _open_text(raw, file)
        number = 0
        while line := raw.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(line) > MAX_ROW_BYTES:
                raise row_too_large(number)
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as problem:
                raise _not_utf8(file, number, line, problem.start) from None
            yield text


def read_pieces(file: Path) -> Iterator[str]:
    """Yield the text in pieces of about 1 MiB, cut anywhere. Raises BrokenFile, OSError."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, piece = 1, b""
    with open_regular(file) as raw:
        _open_text(raw, file)
        while True:
            line += piece.count(b"\n")
            piece = raw.read(PIECE_BYTES)
            # The decoder keeps the beginning of a character that the last piece cut off.
            kept = decoder.getstate()[0]
            try:
                text = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as problem:
                seen, end = kept + piece, problem.start
                line += seen.count(b"\n", 0, end)
                yield seen[:end].decode("utf-8")
                raise _not_utf8(file, line, seen, end) from None
            if text:
                yield text
            if not piece:
                return


def encoding_of(head: bytes) -> str | None:
    """Name the encoding of a text by its beginning; None where that is UTF-8, or no text."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as problem:
        line_start = head.rfind(b"\n", 0, problem.start) + 1
        sample = head[line_start : problem.start + _SAMPLE_BYTES]
        return "GB18030" if _looks_like_gbk(sample) else None
    return None


def row_too_large(line: int) -> BrokenFile:
    """Return the error that a row exceeds MAX_ROW_BYTES. line: where it begins."""
    return BrokenFile(
        "row_too_large",
        line,
        _("The row that begins here is larger than {size} MiB.").format(size=MAX_ROW_BYTES >> 20),
        _("Perhaps a quotation mark or bracket is missing, or the file is not text."),
    )


def row_too_long(size: int | None = None) -> BadRow:
    """Return what is wrong with a row; the rows behind it can be read.

    size: its characters; None: it was not read, it would take more than MAX_ROW_BYTES.
    """
    return BadRow(
        "row_too_long",
        _("The row has {size:,} characters, at most {most:,} are read.").format(
            size=size, most=MOST_ROW_CHARACTERS
        )
        if size is not None
        else _("The row that begins here is larger than {size} MiB.").format(
            size=MAX_ROW_BYTES >> 20
        ),
        _("Divide it into several rows; no model's context holds that much."),
    )


def _open_text(raw: BufferedReader, file: Path) -> None:
    """Step over a byte order mark. Raises BrokenFile for text in 16 or 32 bits, and for none."""
    head = raw.read(_HEAD_BYTES)
    raw.seek(len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0)
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            raise _in_another_encoding(file, 1, name)
    if len(head) > 1 and b"\0" in head:
        # Without a mark: the first character is [ or { or a letter, one of its two bytes is 0.
        if head[0] != head[1] == 0:
            raise _in_another_encoding(file, 1, "UTF-16LE")
        if head[1] != head[0] == 0:
            raise _in_another_encoding(file, 1, "UTF-16BE")
        raise BrokenFile(
            "binary_file",
            head.count(b"\n", 0, head.index(b"\0")) + 1,
            _("The file holds NUL bytes: it is not text."),
            _("Copy it again from where it came from."),
        )


def _not_utf8(file: Path, line: int, data: bytes, position: int) -> BrokenFile:
    line_start = data.rfind(b"\n", 0, position) + 1
    if _looks_like_gbk(data[line_start : position + _SAMPLE_BYTES]):
        return _in_another_encoding(file, line, "GB18030")
    return BrokenFile(
        "not_utf8",
        line,
        _("The text is not UTF-8: the byte {byte} stands at place {position} of the line.").format(
            byte=f"0x{data[position]:02X}", position=position - line_start + 1
        ),
        _("Convert the file, or take such bytes out: {command}").format(
            command=_iconv(file, "-c -f UTF-8")
        ),
    )


def _in_another_encoding(file: Path, line: int, name: str) -> BrokenFile:
    shown = "GBK" if name == "GB18030" else name
    return BrokenFile(
        "not_utf8",
        line,
        _("The text is not UTF-8; it looks like {encoding}.").format(encoding=shown),
        _("Convert it: {command}").format(command=_iconv(file, f"-f {name}")),
    )


def _iconv(file: Path, options: str) -> str:
    converted = file.with_name(f"{file.stem}.utf8{file.suffix}")
    return f"iconv {options} -t UTF-8 {shlex.quote(str(file))} > {shlex.quote(str(converted))}"


def _looks_like_gbk(sample: bytes) -> bool:
    """Tell Chinese in GBK from other text that decodes by chance: common characters prevail."""
    try:
        text = codecs.getincrementaldecoder("gb18030")().decode(sample)
    except UnicodeDecodeError:
        return False
    foreign = [character for character in text if not character.isascii()]
    common = [character for character in foreign if character.encode("gb2312", "ignore")]
    return len(common) * 2 > len(foreign)
