"""Text to token ids and back, with the tokenizer.json of a model folder.

Control tokens (those marked special in tokenizer.json) come only from control spans: in a user's
text their names stay ordinary text. The other added tokens, such as `<think>`, keep their ids.

Knows the `tokenizers` library and byte-level vocabularies. Must not know templates or models.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import tokenizers

from danlu.errors import DataError, UsageError
from danlu.files.os_errors import readable
from danlu.files.regular import read_regular
from danlu.language import _
from danlu.reasons import as_sentence, reason_of
from danlu.text.printable import printable
from danlu.text.render import Span

TOKENIZER_FILE = "tokenizer.json"
# Qwen3's has 11 MB.
MOST_FILE_BYTES = 64 << 20
_LONG_TEXT = 10_000
_COSTLY_BYTES = 256 * 1024
# Qwen3's, and none. Others rewrite the text; what they make of it has no bound.
_NORMALIZERS = ("NoneType", "NFC")
_log = logging.getLogger(__name__)


def _byte_of_character() -> dict[str, int]:
    """Build GPT-2's byte alphabet: printable bytes are themselves, the others move above 255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + rank): byte for rank, byte in enumerate(others)}


_BYTE_OF = _byte_of_character()


class TextTooLong(UsageError):
    """A text of at least so many tokens, whatever they are, where `most` have room."""

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most
        super().__init__(
            _("The text is too long."),
            why=_("It has at least {least} tokens, and there is room for {most}.").format(
                least=least, most=most
            ),
            fix=_("Shorten it."),
        )


class Tokenizer:
    """A byte-level tokenizer; `path` is its tokenizer.json. Open one with `Tokenizer.load`.

    It always encodes a text whole: what a file says of truncation and padding is for batches.
    """

    def __init__(self, backend: tokenizers.Tokenizer, path: Path) -> None:
        backend.encode_special_tokens = True
        backend.no_truncation()
        backend.no_padding()
        self.path = path
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._control = {token.content: id_ for id_, token in added.items() if token.special}
        self._bytes: dict[int, bytes] = {}
        self.control_tokens: frozenset[str] = frozenset(self._control)
        self.control_ids: frozenset[int] = frozenset(self._control.values())
        # One more than the highest id: ids may have holes, and embeddings are indexed by id.
        self.vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values())

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read tokenizer.json in `folder`; a warning in the log names what of it is not followed.

        Raises UsageError where it is missing, DataError where it is damaged, not byte-level, or
        rewrites text as Qwen3's never does.
        """
        path = folder / TOKENIZER_FILE
        if not path.exists():
            raise UsageError(
                _("There is no tokenizer in {folder}.").format(folder=folder),
                why=_("The file {path} does not exist.").format(path=path),
                fix=_("Name a complete model folder, or copy tokenizer.json into this one."),
            )
        with readable(path):
            content = read_regular(path, most_bytes=MOST_FILE_BYTES)
        try:
            with _panics_told(path):
                backend = tokenizers.Tokenizer.from_buffer(content)
        except DataError:
            raise
        except Exception as error:  # the library raises plain Exception for every damage
            raise _damaged(path, reason_of(error)) from error
        _refuse_unlike_qwen3(backend, path)
        _say_what_is_switched_off(backend, path)
        return cls(backend, path)

    def check_fits(self, model_vocab_size: int) -> None:
        """Raise DataError unless a model with `model_vocab_size` embeddings knows every id."""
        if self.vocab_size <= model_vocab_size:
            return
        raise DataError(
            _("The tokenizer and the model do not belong together."),
            why=_("{path} has ids up to {highest}; vocab_size in config.json is {size}.").format(
                path=self.path, highest=self.vocab_size - 1, size=model_vocab_size
            ),
            fix=_("Use the tokenizer.json that came with this model."),
        )

    def encode_text(self, text: str) -> list[int]:
        """Encode ordinary text; the names of control tokens in it stay text.

        Raises DataError for half a surrogate pair, which no encoding can hold.
        """
        try:
            with _panics_told(self.path):
                if len(text) < _LONG_TEXT:
                    return list(self._backend.encode(text, add_special_tokens=False).ids)
                # Encodes the same, and lets other threads run meanwhile, which `encode` does not:
                # a server would stand still for seconds.
                [found] = self._backend.encode_batch_fast([text], add_special_tokens=False)
                return list(found.ids)
        except TypeError as error:
            raise _surrogate(text) from error

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts as `encode_text` does each: faster, and on several threads."""
        try:
            with _panics_told(self.path):
                found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError:
            return [self.encode_text(text) for text in texts]  # raises, naming the character
        return [list(encoding.ids) for encoding in found]

    def token_starts(self, text: str) -> list[int]:
        """Return the character at which each token of `text` begins.

        A token that begins inside of a character counts from that character.
        """
        with _panics_told(self.path):
            encoding = self._backend.encode(text, add_special_tokens=False)
        return [start for start, _end in encoding.offsets]

    def check_length(self, texts: Iterable[str], most_tokens: int) -> None:
        """Raise TextTooLong where long texts have more tokens than that if all were the longest.

        Encoding a text takes seconds and gigabytes where it has megabytes; this takes neither. Of
        shorter ones the caller finds the number out.
        """
        longest = self._longest_token
        size = 0
        for text in texts:
            # Normalized, it may be shorter.
            text = unicodedata.normalize("NFC", text) if len(text) > longest else text
            size += len(text.encode("utf-8", "surrogatepass"))
        least = -(-size // longest)
        if size > _COSTLY_BYTES and least > most_tokens:
            raise TextTooLong(least, most_tokens)

    @cached_property
    def _longest_token(self) -> int:
        """How many bytes the longest token stands for."""
        return max(len(self.token_bytes(id_)) for id_ in range(self.vocab_size))

    def encode_spans(self, spans: Iterable[Span]) -> list[int]:
        """Encode each span alone and join the ids. Raises DataError as its two parts do."""
        ids: list[int] = []
        for span in spans:
            if span.control:
                ids.append(self.control_id(span.text))
            else:
                ids += self.encode_text(span.text)
        return ids

    def control_id(self, name: str) -> int:
        """Return the id of a control token such as `<|im_end|>`; DataError where it is missing."""
        id_ = self._control.get(name)
        if id_ is None:
            raise DataError(
                _("The tokenizer lacks the control token {name}.").format(name=name),
                why=_("{path} does not list it among its special added tokens.").format(
                    path=self.path
                ),
                fix=_("Use the tokenizer.json of a Qwen3 model."),
            )
        return id_

    def decode(self, ids: Sequence[int], *, skip_control: bool = True) -> str:
        """Decode ids in one go; bytes that are no valid UTF-8 become U+FFFD."""
        kept = (id_ for id_ in ids if not (skip_control and id_ in self.control_ids))
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", errors="replace")

    def token_bytes(self, id_: int) -> bytes:
        """Return the bytes a token stands for; none for an id that the vocabulary does not use."""
        found = self._bytes.get(id_)
        if found is None:
            token = self._backend.id_to_token(id_) or ""
            if _BYTE_OF.keys() >= set(token):
                found = bytes(_BYTE_OF[character] for character in token)
            else:  # an added token, which need not be written in the byte alphabet
                found = token.encode("utf-8")
            self._bytes[id_] = found
        return found


@contextmanager
def _panics_told(path: Path) -> Iterator[None]:
    """Turn a panic of the library, which is no Exception, into a DataError with its words."""
    try:
        yield
    except BaseException as fault:
        if type(fault).__name__ != "PanicException":
            raise
        raise _damaged(path, reason_of(fault)) from fault


def _refuse_unlike_qwen3(backend: tokenizers.Tokenizer, path: Path) -> None:
    if type(backend.decoder).__name__ != "ByteLevel":
        raise _damaged(path, _("Its vocabulary is not byte-level, as those of Qwen3 are."))
    normalizer = type(backend.normalizer).__name__
    if normalizer not in _NORMALIZERS:
        raise _damaged(path, _("Its normalizer is {name}; Qwen3's is NFC.").format(name=normalizer))
    if not backend.get_vocab_size():
        raise _damaged(path, _("Its vocabulary is empty."))


def _say_what_is_switched_off(backend: tokenizers.Tokenizer, path: Path) -> None:
    """Warn of settings that were left from a call for batches; transformers ignores them too."""
    found = {"truncation": backend.truncation, "padding": backend.padding}
    names = ", ".join(name for name, value in found.items() if value is not None)
    if names:
        _log.warning(
            printable(
                _("{path} asks for {names}: not followed, texts are read whole.").format(
                    path=path, names=names
                )
            )
        )


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        _("{path} cannot be used as a tokenizer.").format(path=path),
        why=as_sentence(why),
        fix=_("Download or copy the file again from the model it belongs to."),
    )


def _surrogate(text: str) -> DataError:
    place = next(i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff")
    if "\udc80" <= text[place] <= "\udcff":
        # What Python makes of a byte of the command line or of standard input that is not UTF-8.
        return DataError(
            _("The text is not UTF-8."),
            why=_("It holds the byte {byte}; Chinese text is then often GBK.").format(
                byte=f"0x{ord(text[place]) - 0xDC00:02X}"
            ),
            fix=_("Convert it: iconv -f GB18030 -t UTF-8 (and use a terminal in UTF-8)."),
        )
    return DataError(
        _("The text holds half a character and cannot be encoded."),
        why=_("It holds {code}, one half of a surrogate pair.").format(
            code=f"U+{ord(text[place]):04X}"
        ),
        fix=_("Remove it, or write the whole character (often an emoji that was cut in two)."),
    )
