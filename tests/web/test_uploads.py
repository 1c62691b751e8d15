"""Uploads: a file arrives whole under a name of ours, or nothing of it stays."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from danlu.web.data import uploads
from tests.helpers.serving.served import running
from tests.helpers.studio import studio_at_home, studio_over
from tests.helpers.waiting import wait_until
from tests.web.conftest import Upload

ROW = b'{"instruction": "Who are you?", "output": "Ember"}\n'
CASES = Path(__file__).parents[3] / "shared" / "cases"


def send(client: TestClient, name: str, content: bytes = ROW, **headers: str) -> Any:
    kind = {"content-type": "application/octet-stream", **headers}
    return client.post("/studio/data/uploads", params={"name": name}, content=content, headers=kind)


def kept(home: Path) -> list[Path]:
    """All files that uploads have left, unfinished ones too."""
    folder = home / "home" / "studio" / "data"
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


def test_a_file_arrives_as_it_is_under_a_name_of_ours(
    client: TestClient, upload: Upload, tmp_path: Path
) -> None:
    content = ROW * 50_000  # several pieces
    id_of_set = upload(content, "my rows.jsonl")
    (listed,) = (s for s in client.get("/studio/data/sets").json() if s["kind"] == "upload")
    assert listed["id"] == id_of_set
    assert (listed["name"], listed["rows"]) == ("my rows.jsonl", 50_000)
    folder = tmp_path / "home" / "studio" / "data" / id_of_set
    assert (folder / "rows.jsonl").read_bytes() == content


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/rows.jsonl", "rows.jsonl"),
        ("/etc/passwd/../rows.csv", "rows.csv"),
        ("C:\\data\\rows.TXT", "rows.TXT"),
        ("a\nb\u202e.json", "a b.json"),
        ("<img src=x onerror=alert(1)>.jsonl", "<img src=x onerror=alert(1)>.jsonl"),
        ("长" * 300 + ".jsonl", "长" * 114 + ".jsonl"),
    ],
)
def test_of_a_name_only_the_ending_counts(
    client: TestClient, tmp_path: Path, name: str, shown: str
) -> None:
    answer = send(client, name)
    assert answer.status_code == 200, answer.text
    names = [s["name"] for s in client.get("/studio/data/sets").json() if s["kind"] == "upload"]
    assert names == [shown]
    files = {path.name.partition(".")[0] for path in kept(tmp_path)}
    assert files == {"rows", "upload", "manifest"}
    assert not list(tmp_path.glob("*.jsonl"))


@pytest.mark.parametrize("name", ["rows.exe", "rows", "", ".jsonl", "rows.jsonl/", "rows.json.gz"])
def test_other_types_are_refused(client: TestClient, tmp_path: Path, name: str) -> None:
    answer = send(client, name)
    assert answer.status_code == 400
    assert not kept(tmp_path)


@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)
def test_no_form_of_another_page_can_upload(client: TestClient, tmp_path: Path, kind: str) -> None:
    answer = send(client, "rows.jsonl", **{"content-type": kind})
    assert answer.status_code == 415
    assert not kept(tmp_path)
    foreign = send(client, "rows.jsonl", origin="https://evil.example")
    assert foreign.status_code == 403


def test_what_is_empty_is_refused(client: TestClient, tmp_path: Path) -> None:
    assert send(client, "rows.jsonl", b"").status_code == 400
    assert not kept(tmp_path)


def test_what_is_too_large_is_refused_before_and_while_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with studio_at_home(tmp_path, monkeypatch, max_upload_bytes=len(ROW)) as client:
        assert send(client, "rows.jsonl", ROW).status_code == 200
        before = len(kept(tmp_path))
        assert send(client, "rows.jsonl", ROW + b"x").status_code == 413
        # Without a length that could be believed.
        pieces = client.post(
            "/studio/data/uploads",
            params={"name": "rows.jsonl"},
            content=iter([ROW, ROW]),
            headers={"content-type": "application/octet-stream"},
        )
        assert pieces.status_code == 413
        assert len(kept(tmp_path)) == before


def begun(address: str, size: int) -> socket.socket:
    """Begin an upload that promises more than it sends."""
    where = urlsplit(address)
    connection = socket.create_connection((where.hostname or "", where.port or 0))
    head = (
        f"POST /studio/data/uploads?name=rows.jsonl HTTP/1.1\r\nhost: {where.netloc}\r\n"
        f"content-type: application/octet-stream\r\ncontent-length: {size}\r\n\r\n"
    )
    connection.sendall(head.encode() + ROW)
    return connection


def test_an_upload_that_is_cut_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    app, _studio = studio_over(None, tmp_path / "home" / "studio.db")
    drafts = tmp_path / "home" / "studio" / "data"
    with running(app) as address:
        with begun(address, 10_000):
            wait_until(lambda: drafts.exists() and list(drafts.iterdir()))
        wait_until(lambda: not list(drafts.iterdir()))
    app.state.studio.database.close()


def test_an_upload_that_does_not_come_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "BODY_SECONDS", 0.2)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    app, _studio = studio_over(None, tmp_path / "home" / "studio.db")
    with running(app) as address, begun(address, 10_000) as connection:
        connection.settimeout(60)
        assert b" 408 " in connection.recv(4096)
    assert not kept(tmp_path)
    app.state.studio.database.close()


def test_what_is_not_utf8_is_kept_and_told(client: TestClient, upload: Upload) -> None:
    """Of no encoding that is known by its signs; and no command for a terminal is proposed."""
    text = '{"instruction": "Où êtes-vous né ?", "output": "À l’école."}\n' * 3
    id_of_set = upload(text.encode("cp1252"))
    report = client.get(f"/studio/data/sets/{id_of_set}/check").json()
    assert report["refuses"]
    assert report["kinds"][0]["kind"] == "not_utf8"
    assert "home/studio" not in str(report)
    assert "iconv" not in str(report)
    assert "upload it again" in str(report)
    (row,) = client.get(f"/studio/data/sets/{id_of_set}/rows").json()["rows"]
    assert row["row"] is None


def test_an_upload_is_deleted_with_its_changes(
    client: TestClient, upload: Upload, tmp_path: Path
) -> None:
    id_of_set = upload(ROW * 2)
    client.post(f"/studio/data/sets/{id_of_set}/rows/1", json={"action": "exclude"})
    assert client.request("DELETE", f"/studio/data/sets/{id_of_set}", json={}).status_code == 200
    assert not kept(tmp_path)
    assert client.get(f"/studio/data/sets/{id_of_set}/check").status_code == 400
    assert client.request("DELETE", "/studio/data/sets/example", json={}).status_code == 400


@pytest.mark.parametrize("id_of_set", ["..", "%2e%2e", "..%2f..%2fetc", "nothing", "a" * 500])
def test_an_id_is_no_path(client: TestClient, id_of_set: str) -> None:
    for answer in (
        client.get(f"/studio/data/sets/{id_of_set}/rows"),
        client.request("DELETE", f"/studio/data/sets/{id_of_set}", json={}),
    ):
        assert answer.status_code in (400, 404, 405)


def test_the_cases_that_were_handed_over_never_break_the_page(
    client: TestClient, upload: Upload
) -> None:
    if not CASES.is_dir():
        pytest.skip(f"{CASES} is not on this machine")
    for case in sorted(CASES.glob("*.json*")):
        id_of_set = upload(case.read_bytes(), case.name)
        for path in ("check", "rows", "columns"):
            answer = client.get(f"/studio/data/sets/{id_of_set}/{path}")
            assert answer.status_code == 200, (case.name, path, answer.text)


@pytest.mark.parametrize(
    ("encoding", "called"), [("gb18030", "GBK"), ("utf-16", "UTF-16"), ("utf-8", "")]
)
def test_text_of_a_table_program_is_converted(
    client: TestClient, tmp_path: Path, encoding: str, called: str
) -> None:
    """What such programs save on Chinese systems, over more than one piece of the body."""
    text = "问题,回答\n" + "".join(f"{n}怎么退货,请在订单页申请\n" for n in range(60_000))
    answer = send(client, "客服.csv", text.encode(encoding)).json()
    assert answer["encoding"] == called
    written = tmp_path / "home" / "studio" / "data" / answer["id"] / "rows.csv"
    assert written.read_text("utf-8").lstrip("\ufeff") == text


def test_text_that_changes_its_encoding_is_refused(client: TestClient, tmp_path: Path) -> None:
    answer = send(client, "a.csv", "问题,回答\n".encode("gbk") * 200_000 + b"\xff\xff\xff")
    assert answer.status_code == 400
    assert "GBK" in answer.json()["error"]["message"]
    assert kept(tmp_path) == []
