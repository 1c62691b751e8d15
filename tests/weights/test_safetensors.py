"""Weight files as untrusted input: every way a file can lie, and random damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from danlu.errors import DataError
from danlu.weights.safetensors import SafetensorsFile, header_bytes, tensor_bytes

TENSORS = {
    "first": torch.arange(6, dtype=torch.float32).view(2, 3),
    "second": torch.arange(4).to(torch.bfloat16),
}
# first: 24 bytes, second: 8 bytes
ENTRIES: dict[str, Any] = {
    "first": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "second": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}
DATA = b"".join(bytes(tensor_bytes(t)) for t in TENSORS.values())


def write(path: Path, header: object, data: bytes = DATA, *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(name: str, **changes: Any) -> dict[str, Any]:
    """The valid header with some fields of one entry changed; `...` removes a field."""
    fields = {k: v for k, v in (ENTRIES[name] | changes).items() if v is not ...}
    return ENTRIES | {name: fields}


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        SafetensorsFile(path)
    assert path.name in caught.value.what
    return caught.value.why


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_reads_what_the_safetensors_library_wrote(path: Path) -> None:
    tensors = TENSORS | {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5)}
    save_file(tensors, path, metadata={"format": "pt"})
    file = SafetensorsFile(path)
    assert file.metadata == {"format": "pt"}
    assert set(file.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(file.read(name), tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_reads_into_another_dtype_and_into_a_slice(path: Path, dtype: torch.dtype) -> None:
    file = SafetensorsFile(write(path, ENTRIES))
    wide = torch.full((4, 3), -1.0, dtype=dtype)
    file.read_into("first", wide[1:3])
    assert torch.equal(wide[1:3], TENSORS["first"].to(dtype))
    assert (wide[[0, 3]] == -1).all()


def test_reads_into_a_tensor_that_is_not_contiguous(path: Path) -> None:
    file = SafetensorsFile(write(path, ENTRIES))
    wide = torch.zeros(2, 6)
    file.read_into("first", wide[:, ::2])
    assert torch.equal(wide[:, ::2], TENSORS["first"])
    assert not wide[:, 1::2].any()


@pytest.mark.parametrize("content", [b"", b"1234567"])
def test_a_file_shorter_than_its_length_field(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "shorter" in refusal(path)


def test_no_file_and_a_folder_in_its_place(path: Path) -> None:
    assert "no such file" in refusal(path)
    path.mkdir()
    assert "a folder, not a file" in refusal(path)


def test_a_header_over_100_mb_is_refused_unread(path: Path) -> None:
    with write(path, b"{}", b"", length=100_000_001).open("r+b") as file:
        file.truncate(100_000_100)  # sparse: the file is as long as its header claims
    assert "100 MB" in refusal(path)


@pytest.mark.parametrize("length", [10**6, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file(path: Path, length: int) -> None:
    told = refusal(write(path, ENTRIES, length=length))
    assert str(length) in told if length == 10**6 else "100 MB" in told


def test_a_file_of_another_kind_is_not_quoted(path: Path) -> None:
    """What a link leads to may be nobody's business: its first bytes are no number to show."""
    path.write_bytes(b"root:x:0:0:root:/root:/bin/bash\n")
    told = refusal(path)
    assert "root" not in told
    assert str(int.from_bytes(b"root:x:0", "little")) not in told


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff{}",
        b"[" * 100_000,
        b'{"x": 1' + b"0" * 5000 + b"}",
        b"[]",
        b"null",
        b'{"a": {}, "a": {}}',
    ],
    ids=["empty", "cut", "not utf-8", "deep", "huge number", "list", "null", "name twice"],
)
def test_a_header_that_is_no_json_object(path: Path, text: bytes) -> None:
    assert "JSON" in refusal(write(path, text))


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": ...},
        {"dtype": 32},
        {"dtype": "F99"},
        {"dtype": "BF16"},
        {"shape": ...},
        {"shape": "2,3"},
        {"shape": [2, 3.0]},
        {"shape": [True, 6]},
        {"shape": [-2, -3]},
        {"shape": [2, 4]},
        {"shape": [2**62, 2**62]},
        {"data_offsets": ...},
        {"data_offsets": [0]},
        {"data_offsets": [0, 24, 32]},
        {"data_offsets": [24, 0]},
        {"data_offsets": [-24, 0]},
        {"data_offsets": [0, 2**80]},
        {"data_offsets": [0, 20]},
    ],
    ids=str,
)
def test_a_malformed_entry_is_named(path: Path, changes: dict[str, Any]) -> None:
    assert "first" in refusal(write(path, entry("first", **changes)))


@pytest.mark.parametrize("value", [None, 3, [], "x"], ids=str)
def test_an_entry_that_is_no_object_is_named(path: Path, value: object) -> None:
    assert "second" in refusal(write(path, ENTRIES | {"second": value}))


def test_overlapping_tensors(path: Path) -> None:
    why = refusal(write(path, entry("second", data_offsets=[16, 24]), DATA[:24]))
    assert "overlaps" in why
    assert "second" in why


def test_two_names_for_the_same_bytes(path: Path) -> None:
    assert "overlaps" in refusal(write(path, ENTRIES | {"third": ENTRIES["second"]}))


def test_a_gap_between_tensors(path: Path) -> None:
    why = refusal(write(path, entry("second", data_offsets=[28, 36]), DATA + bytes(4)))
    assert "gap" in why
    assert "second" in why


def test_offsets_beyond_the_end_of_the_file(path: Path) -> None:
    why = refusal(write(path, entry("second", data_offsets=[1024, 1032])))
    assert "second" in why


def test_a_truncated_file_names_the_tensor_that_was_cut(path: Path) -> None:
    why = refusal(write(path, ENTRIES, DATA[:-1]))
    assert "truncated" in why
    assert "second" in why


def test_bytes_that_belong_to_no_tensor(path: Path) -> None:
    assert "3 bytes" in refusal(write(path, ENTRIES, DATA + b"abc"))


def test_a_file_cut_after_it_was_opened(path: Path) -> None:
    file = SafetensorsFile(write(path, ENTRIES))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError) as caught:
        file.read("second")
    assert "second" in caught.value.why


def test_wrong_shape_names_tensor_and_both_shapes(path: Path) -> None:
    file = SafetensorsFile(write(path, ENTRIES))
    with pytest.raises(DataError) as caught:
        file.read_into("first", torch.zeros(3, 2))
    assert all(text in caught.value.why for text in ("first", "[2, 3]", "[3, 2]"))
    assert path.name in caught.value.what


def test_numbers_that_are_no_weights(path: Path) -> None:
    save_file({"counts": torch.arange(4)}, path)
    file = SafetensorsFile(path)
    with pytest.raises(DataError) as caught:
        file.read_into("counts", torch.zeros(4))
    assert "counts" in caught.value.why
    assert "I64" in caught.value.why


def test_data_starts_at_a_multiple_of_eight() -> None:
    for name in ("a", "ab", "abc", "权重"):
        assert len(header_bytes([(name, torch.float32, (2,))])) % 8 == 0


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
EDITED = ["dtype", "shape", "data_offsets", "other"]
header_edits = st.tuples(
    st.sampled_from(["first", "second", "__metadata__"]),
    st.none() | st.sampled_from(EDITED),
    values,
)
byte_edits = st.tuples(
    st.sampled_from(["flip", "cut", "insert"]), st.floats(0, 1), st.integers(0, 255)
)


def edited(content: bytes, kind: str, place: float, byte: int) -> bytes:
    at = int(place * (len(content) - 1)) if content else 0
    if kind == "flip":
        return content[:at] + bytes([byte]) + content[at + 1 :]
    return content[:at] if kind == "cut" else content[:at] + bytes([byte]) + content[at:]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(header_edits, max_size=2), st.lists(byte_edits, max_size=3))
def test_damage_of_any_kind_is_an_error_or_harmless(
    tmp_path: Path,
    in_header: list[tuple[str, str | None, Any]],
    in_bytes: list[tuple[str, float, int]],
) -> None:
    header = json.loads(json.dumps(ENTRIES))
    for name, field, value in in_header:
        if field is None or not isinstance(header.get(name), dict):
            header[name] = value
        else:
            header[name][field] = value
    path = write(tmp_path / "model.safetensors", header)
    content = path.read_bytes()
    for edit in in_bytes:
        content = edited(content, *edit)
    path.write_bytes(content)
    try:
        file = SafetensorsFile(path)
        for name in file.tensors:
            file.read(name)
    except DataError:
        pass  # the only error a user's file may cause
