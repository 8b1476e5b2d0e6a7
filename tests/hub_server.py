"""A local stand-in for the hub's HTTP API, as far as the hub's client uses it."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_stand_in"


@dataclass
class Repository:
    """Commits are whole trees: from paths to bytes."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        text = json.dumps([len(self.commits), sorted(files)])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches[revision]]


@dataclass
class Hub:
    """All repositories, the uploaded large files, and what was asked for."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def add(self, name: str, files: dict[str, bytes], *, private: bool = False) -> Repository:
        repository = self.repositories[name] = Repository(private)
        repository.commit("main", files)
        return repository


def is_large(path: str) -> bool:
    """Which files go by Git LFS: those with arrays, so that both ways are used."""
    return "/d/" in path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments):
        pass

    def answer(self, value=None, *, status=200, code="", headers=None, data=None):
        data = json.dumps(value).encode() if data is None else data
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        for key, text in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_request(self):
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        self.query = parse_qs(url.query)
        self.hub.requests.append(f"{self.command} {url.path}")
        body = self.body()
        may_write = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self.command in ("POST", "PUT") and parts[0] != "objects" and not may_write:
            return self.answer({"error": "who are you?"}, status=401)
        if parts[0] == "objects":
            self.hub.objects[parts[1]] = body
            return self.answer({})
        if parts[:2] == ["api", "validate-yaml"]:
            return self.answer({"errors": [], "warnings": []})
        if parts[:2] == ["api", "repos"]:
            return self.create(json.loads(body))
        if parts[0] == "api":
            return self.api("/".join(parts[2:4]), parts[4:], body)
        if parts[1].endswith(".git"):
            return self.batch(json.loads(body))
        return self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    do_GET = do_POST = do_PUT = do_HEAD = handle_request

    def create(self, asked):
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if name in self.hub.repositories:
            return self.answer({"error": "there", "url": f"{self.hub.endpoint}/{name}"}, status=409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.add(name, {".gitattributes": b"*.bin filter=lfs\n"}, private=private)
        self.answer({"url": f"{self.hub.endpoint}/{name}", "name": name})

    def api(self, name, rest, body):
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self.answer({"error": "none"}, status=404, code="RepoNotFound")
        what, *revision = rest or ["revision", "main"]
        revision = revision[0] if revision else "main"
        if what == "branch":
            if revision in repository.branches:
                return self.answer({"error": "there"}, status=409)
            repository.branches[revision] = repository.branches["main"]
            return self.answer({})
        sha = repository.find(revision)
        if sha is None:
            return self.answer({"error": "none"}, status=404, code="RevisionNotFound")
        files = repository.commits[sha]
        if what == "revision":
            self.answer({"id": name, "modelId": name, "sha": sha, "private": repository.private})
        elif what == "tree":
            self.answer([self.entry(path, data) for path, data in sorted(files.items())])
        elif what == "preupload":
            asked = json.loads(body)["files"]
            self.answer({"files": [self.mode(each["path"]) for each in asked]})
        elif what == "commit":
            self.commit(name, revision, dict(files), body.splitlines())

    def mode(self, path):
        mode = "lfs" if is_large(path) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False}

    def entry(self, path, data):
        entry = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
        if is_large(path):
            digest = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 130}
        return entry

    def commit(self, name, branch, files, lines):
        for line in lines:
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.hub.repositories[name].commit(branch, files)
        url = f"{self.hub.endpoint}/{name}/commit/{sha}"
        self.answer({"commitUrl": url, "commitOid": sha, "pullRequestUrl": None})

    def batch(self, asked):
        objects = []
        for each in asked["objects"]:
            actions = {"upload": {"href": f"{self.hub.endpoint}/objects/{each['oid']}"}}
            known = each["oid"] in self.hub.objects
            objects.append({**each, **({} if known else {"actions": actions})})
        self.answer({"transfer": "basic", "objects": objects})

    def resolve(self, name, revision, path):
        repository = self.hub.repositories[name]
        data = repository.commits[repository.find(revision)].get(path)
        if data is None:
            return self.answer({}, status=404, code="EntryNotFound")
        digest = hashlib.sha256(data).hexdigest() if is_large(path) else git_oid(data)
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": repository.find(revision)}
        self.answer(data=data, headers=headers)


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    """A stand-in that listens on this machine until the end of the context."""
    hub = Hub()
    handler = type("OwnHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
