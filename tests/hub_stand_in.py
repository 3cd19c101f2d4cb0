"""A stand-in for the hub's server, for the real ``huggingface_hub`` client on a machine offline.

Serves folders as revisions of repositories: listings, HEAD and GET of files, and the hub's own
errors for what it does not have.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Repositories = dict[str, dict[str, Path]]  # id -> revision -> folder


def compute_commit(folder: Path) -> str:
    """40 hexadecimal digits that stand for a folder's content."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return hashlib.sha1(
        b"".join(path.name.encode() + path.read_bytes() for path in files)
    ).hexdigest()


@contextlib.contextmanager
def serve_hub(repositories: Repositories) -> Iterator[str]:
    """The URL of a server that has these repositories, for ``HF_ENDPOINT``."""
    handler = type("Handler", (_Handler,), {"repositories": repositories})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: Repositories

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        listing = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if listing:
            name, kind, revision = listing.groups()
            folder = self._find(name, revision)
            if folder is not None:
                content = self._describe(folder) if kind == "revision" else self._list(folder)
                self._send(200, json.dumps(content).encode(), {}, with_body)
        elif file:
            name, revision, inner = file.groups()
            folder = self._find(name, revision)
            if folder is not None and (folder / inner).is_file():
                data = (folder / inner).read_bytes()
                headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
                headers["X-Repo-Commit"] = compute_commit(folder)
                self._send(200, data, headers, with_body)
            elif folder is not None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
        else:
            self._send(404, b"", {}, with_body)

    def _find(self, name: str, revision: str) -> Path | None:
        revisions = self.repositories.get(name)
        if revisions is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, True)
            return None
        known = {compute_commit(folder): folder for folder in revisions.values()} | revisions
        if revision not in known:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, True)
        return known.get(revision)

    def _describe(self, folder: Path) -> dict[str, object]:
        files = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
        return {"id": "x/y", "sha": compute_commit(folder), "siblings": files}

    def _list(self, folder: Path) -> list[dict[str, object]]:
        return [
            {
                "type": "file",
                "path": path.name,
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in sorted(folder.iterdir())
        ]

    def _send(self, code: int, data: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(code)
        for key, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(data)
