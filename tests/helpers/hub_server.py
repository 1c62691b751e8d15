"""A hub on this machine: the endpoints of Hugging Face and of ModelScope, with faults to order.

Faults are fields that a test sets: what a bad line, a proxy or a careless server does.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Hub:
    """What is served, and what goes wrong.

    cut_after: bytes after which each connection breaks. corrupt: how often a file is still sent
    with a wrong byte. becomes: what a file is replaced by once it was asked for. busy: how many
    more requests for files are answered with 503. asked: (path, Range) of each request for bytes.
    """

    files: dict[str, bytes]
    address: str = ""
    cut_after: int | None = None
    ignores_ranges: bool = False
    wrong_ranges: bool = False
    corrupt: dict[str, int] = field(default_factory=dict)
    becomes: dict[str, bytes] = field(default_factory=dict)
    busy: int = 0
    pause_s: float = 0.0
    listing: bytes | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def commit(self) -> str:
        """Name the present content as git would."""
        everything = repr(sorted(self.files.items())).encode()
        return hashlib.sha1(everything, usedforsecurity=False).hexdigest()

    def hugging_face(self) -> dict[str, object]:
        """List the files as /api/models/ID/revision/main?blobs=true does."""
        siblings = [_sibling(*file) for file in self.files.items()]
        return {"id": "Qwen/Qwen3-0.6B", "sha": self.commit, "siblings": siblings}

    def modelscope(self) -> dict[str, object]:
        """List the files as /api/v1/models/ID/repo/files does, folders among them."""
        entries: list[dict[str, object]] = [
            {
                "Name": name,
                "Path": name,
                "Size": len(data),
                "Sha256": hashlib.sha256(data).hexdigest(),
                "Type": "blob",
            }
            for name, data in self.files.items()
        ]
        entries.append({"Name": "figures", "Path": "figures", "Size": 0, "Type": "tree"})
        return {"Code": 200, "Success": True, "Data": {"Files": entries}}

    def bytes_of(self, name: str) -> bytes:
        """Return what is sent for a file now, faults included."""
        data = self.files[name]
        if name in self.becomes:
            self.files[name] = self.becomes.pop(name)
        if self.corrupt.get(name, 0):
            self.corrupt[name] -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        return data


def _sibling(name: str, data: bytes) -> dict[str, object]:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": git}
    if name.endswith((".safetensors", "tokenizer.json")):
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 135}
    return entry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if path.startswith("/api/v1/models/") and path.endswith("/repo/files"):
            self._json(self.hub.modelscope())
        elif path.startswith("/api/v1/models/"):
            self._file(query["FilePath"][0])
        elif path.startswith("/api/models/"):
            self._json(self.hub.hugging_face())
        elif "/resolve/" in path:
            # Bytes come from another host, as those of the real one's large files do.
            name = path.rpartition("/")[2]
            self.send_response(302)
            self.send_header("X-Repo-Commit", self.hub.commit)
            sibling = _sibling(name, self.hub.files[name])
            lfs = sibling.get("lfs")
            etag = lfs["sha256"] if isinstance(lfs, dict) else sibling["blobId"]
            self.send_header("X-Linked-Etag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(sibling["size"]))
            self.send_header("ETag", f'"{etag}"')
            other = self.hub.address.replace("127.0.0.1", "localhost")
            self.send_header("Location", f"{other}/bytes/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._file(path.removeprefix("/bytes/"))

    def _json(self, answer: object) -> None:
        data = self.hub.listing
        if data is None:
            data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _file(self, name: str) -> None:
        hub, wanted = self.hub, self.headers.get("Range", "")
        hub.asked.append((name, wanted))
        if hub.busy:
            hub.busy -= 1
            self.send_error(503)
            return
        data = hub.bytes_of(name)
        begin = 0
        if wanted and not hub.ignores_ranges:
            begin = int(wanted.removeprefix("bytes=").partition("-")[0])
        if begin >= len(data) > 0:
            self.send_error(416)
            return
        shown = 0 if hub.wrong_ranges else begin
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - shown))
        self.end_headers()
        if self.command != "HEAD":
            self._send(data[shown:])

    def _send(self, body: bytes) -> None:
        whole = len(body)
        if self.hub.cut_after is not None:
            body = body[: self.hub.cut_after]
        for start in range(0, len(body), 16384):
            self.wfile.write(body[start : start + 16384])
            self.wfile.flush()
            time.sleep(self.hub.pause_s)
        if len(body) < whole:
            self.close_connection = True

    def log_message(self, *_words: object) -> None:
        pass


@contextmanager
def serving_hub(folder: Path) -> Iterator[Hub]:
    """Serve the files of a model folder as any model that is asked for."""
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    files.pop("manifest.json", None)
    hub = Hub(files=files)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
