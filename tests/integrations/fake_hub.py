"""A server that answers as the Hugging Face Hub does, as far as files are fetched and pushed."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Repository:
    """Commits by name, each with its files; branches and tags; whether a token is needed."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def commit(self, files: dict[str, bytes], *, branch: str = "main") -> str:
        """Adds a commit with these files beside those of the one before; returns its name."""
        whole = {**self.commits.get(self.refs.get(branch, ""), {}), **files}
        name = hashlib.sha1(f"{len(self.commits)} {branch}".encode()).hexdigest()
        self.commits[name], self.refs[branch] = whole, name
        return name


@dataclass
class Hub:
    """What the server has, and the requests that came."""

    endpoint: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    """What it pretends of a file's size."""
    broken: bool = False
    """Whether it answers everything with an error of its own."""

    def add(self, name: str, files: dict[str, bytes]) -> str:
        """A repository's next commit."""
        return self.repositories.setdefault(name, Repository()).commit(files)


@contextmanager
def served():
    """A hub on a port of this machine, for as long as the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = hub
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self._resolve(body=False)

    def do_GET(self):
        self._resolve(body=True)

    def do_POST(self):
        hub = self._begin()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.strip("/").split("/")
        if not self.headers.get("Authorization"):
            self._answer(401, {"error": "Invalid credentials in Authorization header"})
        elif parts == ["api", "repos", "create"]:
            asked = json.loads(content)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            there = name in hub.repositories
            repository = hub.repositories.setdefault(name, Repository(private=asked.get("visibility") == "private"))
            if not there:
                repository.commit({})
            self._answer(409 if there else 200, {"url": f"{hub.endpoint}/{name}", "id": name, "name": name})
        elif parts == ["api", "validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
        elif parts[4:5] == ["preupload"]:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(content)["files"]
            ]
            self._answer(200, {"files": files})
        elif parts[4:5] == ["commit"]:
            name = "/".join(parts[2:4])
            lines = [json.loads(line) for line in content.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            commit = hub.add(name, files)
            answer = {"success": True, "commitOid": commit, "commitUrl": f"{hub.endpoint}/{name}/commit/{commit}"}
            self._answer(200, answer)
        else:
            self._answer(404, {"error": self.path})

    def _begin(self):
        hub = self.server.hub
        hub.requests.append(f"{self.command} {self.path}")
        return hub

    def _resolve(self, *, body):
        hub = self._begin()
        parts = self.path.split("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        repository = hub.repositories.get(name)
        if hub.broken:
            return self._answer(500, {"error": "out of order"})
        if repository is None or (repository.private and not self.headers.get("Authorization")):
            return self._refuse("RepoNotFound", 401)
        if parts[0] == "api":
            commit = repository.refs["main"]
            return self._answer(200, {"id": name, "modelId": name, "sha": commit, "siblings": [], "private": False})
        commit = repository.refs.get(parts[3], parts[3])
        if commit not in repository.commits:
            return self._refuse("RevisionNotFound", 404)
        file = "/".join(parts[4:])
        if file not in repository.commits[commit]:
            return self._refuse("EntryNotFound", 404, {"X-Repo-Commit": commit})
        content = repository.commits[commit][file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if not body and file in hub.sizes:
            headers["X-Linked-Size"] = str(hub.sizes[file])
        return self._send(200, content, headers, body=body)

    def _refuse(self, code, status, headers=()):
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code, **dict(headers)}, body=True)

    def _answer(self, status, content):
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"}, body=True)

    def _send(self, status, content, headers, *, body):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(content)
