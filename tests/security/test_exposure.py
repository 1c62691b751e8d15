"""S2, S12: an address that others reach needs a key; a key file is for one pair of eyes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.errors import UsageError
from danlu.server.edge.keys import Keys, is_loopback, key_texts
from danlu.server.settings import ServeSettings


def key_file(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "danlu.key"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("localhost", True), ("LOCALHOST", True), ("::1", True),
        ("[::1]", True), ("127.8.9.1", True), ("0.0.0.0", False), ("::", False), ("", False),
        ("192.168.1.7", False), ("my-box.local", False), ("localhost.evil.example", False),
    ],
)  # fmt: skip
def test_what_loopback_is(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "my-box.local"])
def test_without_a_key_other_addresses_are_refused(
    host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DANLU_API_KEY", raising=False)
    assert main(["serve", "--host", host]) == 2
    error = capsys.readouterr().err
    assert f"--host {host} --api_key_file danlu.key" in error
    assert "secrets.token_urlsafe" in error


def test_loopback_needs_none() -> None:
    assert not key_texts(ServeSettings())


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    path = key_file(tmp_path, "# for the lab\n\n  first-key \nsecond-key\r\n")
    keys = Keys.of(key_texts(ServeSettings(host="0.0.0.0", api_key_file=str(path))))
    assert keys.recognise("Bearer first-key")
    assert keys.recognise("bearer  second-key ")
    for wrong in ("Bearer third", "Basic first-key", "first-key", "", "Bearer", "Bearer \udcff"):
        assert keys.recognise(wrong) is None


def test_the_environment_gives_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.settings.resolve import resolve

    settings = resolve(ServeSettings, [], {"DANLU_API_KEY": "from-outside"}).values
    assert Keys.of(key_texts(settings)).recognise("Bearer from-outside")


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("good-key\n", 0o644, "chmod 600"),
        ("good-key\n", 0o660, "chmod 600"),
        ("", 0o600, "no key"),
        ("# only a comment\n", 0o600, "no key"),
        ("a key with spaces\n", 0o600, "without spaces"),
        ("schlüssel\n", 0o600, "without spaces"),
        (b"\xff\xfe\n", 0o600, "without spaces"),
        ("a" * 70_000, 0o600, "64 KiB"),
    ],
)
def test_bad_key_files(tmp_path: Path, text: str | bytes, mode: int, says: str) -> None:
    path = key_file(tmp_path, text, mode)
    with pytest.raises(UsageError) as caught:
        key_texts(ServeSettings(api_key_file=str(path)))
    assert says in str(caught.value)
    assert "good-key" not in str(caught.value)


def test_other_things_in_the_place_of_a_key_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (tmp_path, pipe, tmp_path / "missing", Path("/dev/zero")):
        with pytest.raises(UsageError):
            key_texts(ServeSettings(api_key_file=str(path)))


def test_an_empty_key_is_none() -> None:
    with pytest.raises(UsageError):
        key_texts(ServeSettings.model_validate({"api_key": ""}))


def test_only_digests_are_kept() -> None:
    assert "first-key" not in repr(Keys.of(["first-key"]))
