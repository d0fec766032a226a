"""A small server that answers as the Hugging Face Hub does, for what ``huggingface_hub`` asks of it.

Repositories of models and data sets, with commits. A small text is a regular file; all else goes through the
LFS protocol, and is served by a redirect, as the Hub's is. What was uploaded is kept byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITES, READS = "hf_writes", "hf_reads"
"""Tokens that the stand-in knows."""
_REPO = r"(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
_FILE = r"(?:(?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
_BATCH = r"(?:(?P<kind>datasets)/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch"


@dataclass
class Repo:
    """One repository: files by commit, and commits by branch."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """Set the files of a branch."""
        self.messages.append(message)
        text = "".join(f"{path}{hashlib.sha1(data).hexdigest()}" for path, data in sorted(files.items()))
        oid = hashlib.sha1(f"{len(self.messages)}{text}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = dict(files), oid
        return oid

    def oid(self, revision: str) -> str | None:
        """The commit of a branch, or a commit itself."""
        return self.branches.get(revision, revision if revision in self.commits else None)

    @property
    def files(self) -> dict[str, bytes]:
        """The files of ``main``."""
        return self.commits[self.branches["main"]]


class StandIn:
    """The repositories of a server, by kind and name."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.down = False
        self.url = ""

    def model(self, name: str) -> Repo:
        """A repository of a model."""
        return self.repos["models", name]

    def dataset(self, name: str) -> Repo:
        """A repository of a data set."""
        return self.repos["datasets", name]


def is_large(path: str, data: bytes) -> bool:
    """Whether the Hub keeps a file outside of git."""
    return path.endswith(".safetensors") or len(data) > 10_000 or b"\0" in data[:512]


@contextmanager
def serving() -> Iterator[StandIn]:
    """A server on this machine."""
    known = StandIn()
    handler = type("Handler", (_Handler,), {"known": known})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    known.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    known: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        length = self.headers.get("Content-Length")
        if length is not None:
            self.body = self.rfile.read(int(length))
        elif self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(self._chunks())
        else:
            self.body = b""
        self.path_, self.query = urlsplit(self.path).path.strip("/"), parse_qs(urlsplit(self.path).query)
        self.known.requests.append(f"{self.command} {unquote(self.path_)}")
        if self.known.down:
            return self._send(500, {"error": "down"})
        for method, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, self.path_)
            if found and self.command in method:
                given = {key: unquote(value) for key, value in found.groupdict().items() if value}
                return answer(self, **given)
        if re.fullmatch(r"api/(models|datasets)/[^/]+", self.path_):
            # A repository without a user, as the oldest ones are; huggingface_hub 1.3 asks for "user" first.
            return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return self._send(404, {"error": f"{self.command} {self.path_}"})

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, status: int, value: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or " ").split(" ")[1] or None

    def _may_not_write(self) -> bool:
        if self._token == WRITES:
            return False
        status = 403 if self._token == READS else 401
        self._send(status, {"error": "no"}, {"X-Error-Message": "Invalid username or password."})
        return True

    def _repo(self, kind: str, name: str, revision: str = "main") -> tuple[Repo, str] | None:
        """The repository and the commit, or an answer that there is none."""
        repo = self.known.repos.get((kind, name))
        if repo is None or (repo.private and self._token not in (WRITES, READS)):
            # What the Hub answers to strangers: it does not say whether there is one.
            status = 401 if self._token is None else 404
            self._send(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        oid = repo.oid(revision)
        if oid is None:
            self._send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repo, oid

    def _create(self) -> None:
        if self._may_not_write():
            return
        given = json.loads(self.body)
        kind = f"{given.get('type') or 'model'}s"
        name = f"{given.get('organization') or 'ada'}/{given['name']}"
        address = f"{self.known.url}/{'' if kind == 'models' else kind + '/'}{name}"
        there = (kind, name) in self.known.repos
        if not there:
            private = given.get("visibility") == "private" or bool(given.get("private"))
            self.known.repos[kind, name] = Repo(private)
        self._send(409 if there else 200, {"url": address, "name": name, "error": "exists"})

    def _info(self, kind: str, name: str, revision: str = "main") -> None:
        if (found := self._repo(kind, name, revision)) is not None:
            repo, oid = found
            siblings = [{"rfilename": path} for path in repo.commits[oid]]
            self._send(
                200, {"id": name, "sha": oid, "private": repo.private, "siblings": siblings, "tags": []}
            )

    def _entries(self, repo: Repo, oid: str) -> dict[str, dict[str, Any]]:
        entries: dict[str, dict[str, Any]] = {}
        for path, data in repo.commits[oid].items():
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entries[path] = {"type": "file", "path": path, "size": len(data), "oid": git}
            if is_large(path, data):
                digest = hashlib.sha256(data).hexdigest()
                entries[path]["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 130}
            for end in [found.start() for found in re.finditer("/", path)]:
                folder = path[:end]
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
        return entries

    def _tree(self, kind: str, name: str, revision: str, path: str = "") -> None:
        if (found := self._repo(kind, name, revision)) is None:
            return None
        entries = self._entries(*found)
        inside = {key: one for key, one in entries.items() if not path or key.startswith(path + "/")}
        if path and not inside:
            return self._send(404, {"error": "no entry"}, {"X-Error-Code": "EntryNotFound"})
        if self.query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            depth = path.count("/") + 1 if path else 0
            inside = {key: one for key, one in inside.items() if key.count("/") == depth}
        return self._send(200, list(inside.values()))

    def _paths(self, kind: str, name: str, revision: str) -> None:
        if (found := self._repo(kind, name, revision)) is not None:
            entries = self._entries(*found)
            if self.headers.get("Content-Type", "").startswith("application/json"):
                wanted = json.loads(self.body)["paths"]
            else:
                wanted = parse_qs(self.body.decode()).get("paths", [])
            self._send(200, [entries[path] for path in wanted if path in entries])

    def _preupload(self, kind: str, name: str, revision: str) -> None:
        if self._may_not_write() or (found := self._repo(kind, name, revision)) is None:
            return
        repo, oid = found
        answers = []
        for one in json.loads(self.body)["files"]:
            sample = base64.b64decode(one["sample"])
            large = one["path"].endswith(".safetensors") or one["size"] > 10_000 or b"\0" in sample
            there = self._entries(repo, oid).get(one["path"], {})
            mode = "lfs" if large else "regular"
            known = there.get("lfs", {}).get("oid") if large else there.get("oid")
            answers.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known})
        self._send(200, {"files": answers})

    def _batch(self, name: str, kind: str = "models") -> None:
        if self._may_not_write():
            return
        objects: list[dict[str, Any]] = []
        for one in json.loads(self.body)["objects"]:
            if one["oid"] not in self.known.objects:
                one["actions"] = {"upload": {"href": f"{self.known.url}/lfs/{one['oid']}"}}
            objects.append(one)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._send(400, {"error": "another content"})
        self.known.objects[oid] = self.body
        return self._send(200)

    def _commit(self, kind: str, name: str, revision: str) -> None:
        if self._may_not_write() or (found := self._repo(kind, name, revision)) is None:
            return None
        repo, oid = found
        files, message = dict(repo.commits[oid]), ""
        for line in self.body.decode().splitlines():
            one = json.loads(line)
            value = one["value"]
            if one["key"] == "header":
                message = value["summary"]
            elif one["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                files[value["path"]] = self.known.objects[value["oid"]]
            elif one["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return self._send(400, {"error": one["key"]})
        made = repo.commit(revision, files, message)
        place = f"{self.known.url}/{'' if kind == 'models' else kind + '/'}{name}"
        return self._send(200, {"success": True, "commitOid": made, "commitUrl": f"{place}/commit/{made}"})

    def _resolve(self, name: str, revision: str, path: str, kind: str = "models") -> None:
        if (found := self._repo(kind, name, revision)) is None:
            return None
        repo, oid = found
        headers = {"X-Repo-Commit": oid}
        data = repo.commits[oid].get(path)
        if data is None:
            return self._send(404, {"error": "no entry"}, {**headers, "X-Error-Code": "EntryNotFound"})
        if not is_large(path, data):
            digest = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            return self._part(data, {**headers, "ETag": f'"{digest}"'})
        digest = hashlib.sha256(data).hexdigest()
        self.known.objects[digest] = data
        headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{digest}"'}
        # Another host, as the Hub's is: huggingface_hub follows redirects within one by itself.
        elsewhere = self.known.url.replace("127.0.0.1", "localhost")
        return self._send(302, b"", {**headers, "Location": f"{elsewhere}/lfs/{digest}"})

    def _object(self, oid: str) -> None:
        self._part(self.known.objects[oid], {"ETag": f'"{oid}"'})

    def _part(self, data: bytes, headers: dict[str, str]) -> None:
        """All of a file, or the range that is asked for."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found:
            return self._send(200, data, headers)
        start, stop = int(found[1]), int(found[2] or len(data) - 1) + 1
        ranged = {"Content-Range": f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"}
        return self._send(206, data[start:stop], headers | ranged)

    def _yaml(self) -> None:
        # The Hub refuses a card whose metadata it cannot read.
        text = json.loads(self.body)["content"]
        sound = text.startswith("---\n") and "\n---\n" in text[4:]
        self._send(200 if sound else 400, {"errors": [], "warnings": []})


_ROUTES: list[tuple[str, str, Any]] = [
    ("POST", r"api/repos/create", _Handler._create),
    ("POST", r"api/validate-yaml", _Handler._yaml),
    ("GET", rf"api/{_REPO}", _Handler._info),
    ("GET", rf"api/{_REPO}/revision/(?P<revision>[^/]+)", _Handler._info),
    ("GET", rf"api/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", _Handler._tree),
    ("POST", rf"api/{_REPO}/paths-info/(?P<revision>[^/]+)", _Handler._paths),
    ("POST", rf"api/{_REPO}/preupload/(?P<revision>[^/]+)", _Handler._preupload),
    ("POST", rf"api/{_REPO}/commit/(?P<revision>[^/]+)", _Handler._commit),
    ("POST", _BATCH, _Handler._batch),
    ("PUT", r"lfs/(?P<oid>\w+)", _Handler._put),
    ("GET HEAD", r"lfs/(?P<oid>\w+)", _Handler._object),
    ("GET HEAD", _FILE, _Handler._resolve),
]
