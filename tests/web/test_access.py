"""Who may use the studio: sessions, one-time links, and what stays closed without them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from danlu.files.home import danlu_home
from danlu.web.access import KEY_FILE, Sessions, studio_keys
from danlu.web.settings import WebSettings
from tests.helpers.serving.server import KEY, bearer
from tests.helpers.studio import studio_client

SESSION = "/studio/session"


def test_on_loopback_nobody_is_asked(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        assert client.get(SESSION).json()["open"] is True
        assert client.get("/studio/chats").status_code == 200


def test_elsewhere_a_one_time_link_opens_a_session(tmp_path: Path) -> None:
    with studio_client(tmp_path, keys=[KEY]) as client:
        link = client.studio.sessions.link
        assert client.get("/studio/chats").status_code == 401
        assert client.get("/v1/models").status_code == 401
        opened = client.post(SESSION, json={"link": link})
        assert opened.status_code == 200
        cookie = opened.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "path=" not in cookie  # the browser takes the studio's own folder, behind a prefix
        assert client.get("/studio/chats").status_code == 200
        # A session is the page's; programs show the key.
        assert client.get("/v1/models").status_code == 401
        client.cookies.clear()
        assert client.post(SESSION, json={"link": link}).status_code == 401
        assert client.get("/studio/chats").status_code == 401


def test_the_key_opens_a_session_and_serves_programs(tmp_path: Path) -> None:
    with studio_client(tmp_path, keys=[KEY]) as client:
        assert client.post(SESSION, json={"key": "wrong"}).status_code == 401
        assert client.post(SESSION, json={}).status_code == 401
        half = b'{"key": "\\ud800", "link": "\\ud800"}'
        json_type = {"content-type": "application/json"}
        assert client.post(SESSION, content=half, headers=json_type).status_code == 401
        assert client.get("/v1/models", headers=dict([bearer()])).status_code == 200
        assert client.post(SESSION, json={"key": KEY}).status_code == 200
        assert client.get(SESSION).json()["open"] is True
        stolen = {"cookie": "; ".join(f"{one.name}={one.value}" for one in client.cookies.jar)}
        assert client.get("/studio/chats", headers=stolen).status_code == 200
        client.post(f"{SESSION}/end", json={})
        client.cookies.clear()
        assert client.get("/studio/chats").status_code == 401
        assert client.get("/studio/chats", headers=stolen).status_code == 401


@pytest.mark.parametrize("cookie", ["", "x", "x.y", ".", "a" * 5000, 'x"; path=/', "é.é"])
def test_a_forged_session_is_none(tmp_path: Path, cookie: str) -> None:
    with studio_client(tmp_path, keys=[KEY]) as client:
        headers = {"cookie": f"danlu_6006={cookie}".encode("latin-1")}
        assert client.get("/studio/chats", headers=headers).status_code == 401


def test_a_session_outlives_the_server_but_not_its_key(tmp_path: Path) -> None:
    with studio_client(tmp_path, keys=[KEY]) as client:
        opened = client.post(SESSION, json={"key": KEY}).headers["set-cookie"].split(";")[0]
    headers = {"cookie": opened}
    (tmp_path / "again").mkdir()
    with studio_client(tmp_path / "again", keys=[KEY]) as client:
        assert client.get("/studio/chats", headers=headers).status_code == 200
    (tmp_path / "other").mkdir()
    with studio_client(tmp_path / "other", keys=["another-key"]) as client:
        assert client.get("/studio/chats", headers=headers).status_code == 401


def test_pages_of_other_origins_get_nothing(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
        assert client.post("/studio/chats", json={}, headers=foreign).status_code == 403
        form = {"content-type": "application/x-www-form-urlencoded"}
        assert client.post("/studio/chats", content="a=b", headers=form).status_code == 415
        assert client.get("/studio/chats", headers={"host": "evil.example"}).status_code == 403
        assert "access-control-allow-origin" not in client.get("/studio/chats").headers


def test_the_page_may_load_only_what_is_ours(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        policy = client.get("/studio/session").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_a_key_is_made_where_others_can_reach_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    assert studio_keys(WebSettings()) == []
    made = studio_keys(WebSettings(host="0.0.0.0"))
    assert len(made[0]) >= 32
    assert studio_keys(WebSettings(host="0.0.0.0")) == made
    assert stat.S_IMODE((danlu_home() / KEY_FILE).stat().st_mode) == 0o600


def test_two_studios_on_one_machine_keep_their_sessions_apart() -> None:
    one, other = Sessions(["a"], port=6006), Sessions(["a"], port=6007)
    assert one.link != other.link


def test_refusals_are_in_the_language_of_the_page(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        for language, says in (
            ("zh-CN,zh;q=0.9", "没有这个对话"),
            ("en", "no such chat"),
            ("", "no"),
        ):
            headers = {"accept-language": language}
            message = client.get("/studio/chats/none", headers=headers).json()["error"]["message"]
            assert says in message
