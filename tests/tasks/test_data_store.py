"""Fetching published files, against servers on this machine that behave and that do not."""

import hashlib
import http.server
import io
import socket
import tarfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from l2o.errors import DataError, DataNotFoundError
from l2o.tasks.data import store
from l2o.tasks.data.store import KnownFile, Source, data_folder, extract, fetch, find_file, read_known

CONTENT = bytes(range(256)) * 800


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at every path; `behaviour` says how."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.behaviour = "ranges"
        self.ranges: list[str] = []

    def source(self, name: str = "file.gz") -> Source:
        return Source(f"http://127.0.0.1:{self.server_port}/{name}", f"md5:{hashlib.md5(CONTENT).hexdigest()}")


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.ranges.append(asked)
        behaviour = self.server.behaviour
        if behaviour == "refuse":
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").removesuffix("-") or 0) if behaviour != "no ranges" else 0
        if start > len(self.server.content) or (start and start == len(self.server.content)):
            return self.send_error(416)
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start + 1 if behaviour == "wrong range" else start
            self.send_header(
                "Content-Range", f"bytes {first}-{len(self.server.content) - 1}/{len(self.server.content)}"
            )
        if behaviour != "without length":
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Encoding", "gzip")  # as some servers call a .gz file
        self.end_headers()
        truncated = behaviour == "truncate" or (behaviour == "truncate once" and len(self.server.ranges) == 1)
        self.wfile.write(body[: len(body) // 2] if truncated else body)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)  # between attempts
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("behaviour", ["ranges", "no ranges", "without length"])
def test_fetched_file_has_the_bytes_that_are_served(tmp_path: Path, server: Server, behaviour: str) -> None:
    server.behaviour = behaviour
    path = tmp_path / "set" / "file.gz"
    fetch(server.source(), path)
    assert path.read_bytes() == CONTENT
    assert not list(path.parent.glob("*.part"))


def test_file_that_is_there_is_not_fetched(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(b"a user's own")
    fetch(server.source(), path)
    assert path.read_bytes() == b"a user's own"
    assert server.ranges == []


def test_truncated_download_is_gone_on_with_in_the_same_call(tmp_path: Path, server: Server) -> None:
    server.behaviour = "truncate once"
    fetch(server.source(), tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={len(CONTENT) // 2}-"]


def test_interrupted_download_is_gone_on_with_in_a_later_call(tmp_path: Path, server: Server) -> None:
    server.behaviour = "truncate"
    with pytest.raises(DataNotFoundError, match="stopped after"):
        fetch(server.source(), tmp_path / "file.gz")
    kept = (tmp_path / "file.gz.part").read_bytes()
    assert kept == CONTENT[: len(kept)]
    assert not (tmp_path / "file.gz").exists()
    server.behaviour = "ranges"
    fetch(server.source(), tmp_path / "file.gz")
    assert server.ranges[-1] == f"bytes={len(kept)}-"
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("behaviour", ["ranges", "no ranges", "wrong range"])
@pytest.mark.parametrize("stale", [b"of another file", CONTENT, CONTENT + b"longer"])
def test_stale_part_is_replaced(tmp_path: Path, server: Server, behaviour: str, stale: bytes) -> None:
    server.behaviour = behaviour
    (tmp_path / "file.gz.part").write_bytes(stale)
    fetch(server.source(), tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == CONTENT


def test_altered_bytes_are_refused_and_deleted(tmp_path: Path, server: Server) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DataError, match=r"does not serve the published file .* put the file at .*file\.gz"):
        fetch(server.source(), tmp_path / "file.gz")
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_server_that_sends_without_end_is_cut_off(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l2o.tasks.data.download.MAX_DOWNLOAD", len(CONTENT) - 1)
    with pytest.raises(DataNotFoundError, match="sent more than"):
        fetch(server.source(), tmp_path / "file.gz")
    assert (tmp_path / "file.gz.part").stat().st_size == 0


def test_refusing_server_gives_file_address_and_remedy(tmp_path: Path, server: Server) -> None:
    server.behaviour = "refuse"
    with pytest.raises(DataNotFoundError) as caught:
        fetch(server.source(), tmp_path / "file.gz")
    path, url = tmp_path / "file.gz", server.source().url
    for part in (f"{path} is missing", url, "404", f"put the file at {path}", "set L2O_DATA"):
        assert part in str(caught.value)


def test_unreachable_server_gives_file_address_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        source = Source(f"http://127.0.0.1:{closed.getsockname()[1]}/file.gz", "md5:0")
        with pytest.raises(DataNotFoundError, match=r"could not be fetched from .* put the file at .* set L2O_DATA"):
            fetch(source, tmp_path / "file.gz")


def test_folder_that_cannot_be_made_gives_file_address_and_remedy(tmp_path: Path, server: Server) -> None:
    (tmp_path / "set").write_bytes(b"a file, not a folder")
    with pytest.raises(DataNotFoundError, match="put the file at"):
        fetch(server.source(), tmp_path / "set" / "file.gz")


def test_file_wanted_by_several_at_once_is_fetched_once(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "file.gz"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch(server.source(), path), range(4)))
    assert path.read_bytes() == CONTENT
    assert server.ranges == [""]


MEMBERS = [KnownFile(name, len(body), "") for name, body in {"a.bin": b"aaa", "b.bin": b"bb"}.items()]


def packed(folder: Path, entries: Mapping[str, bytes | str]) -> tuple[Path, str]:
    """A .tar.gz of files, and of links where the content is a string; and its checksum."""
    path = folder / "set.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path, f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_only_the_named_members_are_unpacked(tmp_path: Path) -> None:
    entries = {"../evil": b"x", "/tmp/evil": b"x", "set/c.bin": b"c", "set/a.bin": b"aaa", "set/b.bin": b"bb"}
    extract(*packed(tmp_path, entries), MEMBERS, tmp_path / "set")
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()} == {"a.bin": b"aaa", "b.bin": b"bb"}
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"set/a.bin": b"aaa"}, "lacks set/b.bin"),
        ({"set/a.bin": b"aaaa"}, "set/a.bin of 4 bytes; expected a file of 3 bytes"),
        ({"set/a.bin": "b.bin", "set/b.bin": b"bb"}, "set/a.bin that is no plain file"),
    ],
)
def test_archive_with_other_members_is_refused(
    tmp_path: Path, entries: Mapping[str, bytes | str], message: str
) -> None:
    archive, checksum = packed(tmp_path, entries)
    with pytest.raises(DataError, match=message):
        extract(archive, checksum, MEMBERS, tmp_path / "set")


def test_altered_archive_is_refused(tmp_path: Path) -> None:
    archive, checksum = packed(tmp_path, {"set/a.bin": b"aaa", "set/b.bin": b"bb"})
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"is altered: expected sha256:[0-9a-f]+, found [0-9a-f]+; delete it"):
        extract(archive, checksum, MEMBERS, tmp_path / "set")


@pytest.mark.parametrize("end", [1, 15, 60])
def test_damaged_archive_is_refused_even_if_its_checksum_is_right(tmp_path: Path, end: int) -> None:
    archive, _ = packed(tmp_path, {"set/a.bin": b"aaa", "set/b.bin": b"bb"})
    archive.write_bytes(archive.read_bytes()[:end])
    checksum = f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
    with pytest.raises(DataError, match=r"is not a valid \.tar\.gz"):
        extract(archive, checksum, MEMBERS, tmp_path / "set")


def test_archive_that_cannot_be_unpacked_here_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").write_bytes(b"a file, not a folder")
    with pytest.raises(DataError, match="cannot be unpacked into"):
        extract(*packed(tmp_path, {"set/a.bin": b"aaa"}), MEMBERS, tmp_path / "set")


def test_known_file_of_other_content_is_refused_with_both_checksums(tmp_path: Path) -> None:
    known = KnownFile("a.bin", 3, hashlib.sha256(b"aaa").hexdigest())
    path = tmp_path / "a.bin"
    path.write_bytes(b"aaa")
    assert read_known(path, known) == b"aaa"
    path.write_bytes(b"aab")
    with pytest.raises(DataError) as caught:
        read_known(path, known)
    found = hashlib.sha256(b"aab").hexdigest()
    for part in (str(path), "is altered", known.sha256, found, "delete it and it is fetched again"):
        assert part in str(caught.value)
    path.write_bytes(b"aa")
    with pytest.raises(DataError, match=r"truncated: expected 3 bytes, found 2; delete it"):
        read_known(path, known)
    path.write_bytes(b"aaaa")
    with pytest.raises(DataError, match="more than the 3 bytes expected"):
        read_known(path, known)


def test_plain_file_is_found_before_packed_ones(tmp_path: Path) -> None:
    assert find_file(tmp_path, "a.bin") is None
    for name in ("a.bin.xz", "a.bin.gz", "a.bin"):
        (tmp_path / name).touch()
        assert find_file(tmp_path, "a.bin") == tmp_path / name


def test_data_folder_is_the_environment_variable_or_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2O_DATA", "/some/where")
    assert data_folder() == Path("/some/where")
    for unset in (lambda: monkeypatch.setenv("L2O_DATA", ""), lambda: monkeypatch.delenv("L2O_DATA")):
        unset()
        assert data_folder() == Path(store.pooch.os_cache("l2o"))
