"""Downloads from a server on this machine: resumed, checked, atomic."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from faiss_pqvae.eval.data.download import download

CONTENT = np.random.default_rng(0).bytes(700_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class _Server:
    """What the server does, and the Range headers that it saw."""

    content: bytes = CONTENT
    ranges: bool = True
    status: int | None = None
    stop_after: int | None = None
    seen: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = _Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            state.seen.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            if state.status is not None:
                self.send_error(state.status)
                return
            if asked and state.ranges:
                if start >= len(state.content):
                    self.send_error(416)
                    return
                self.send_response(206)
                n = len(state.content)
                self.send_header("Content-Range", f"bytes {start}-{n - 1}/{n}")
            else:
                start = 0
                self.send_response(200)
            body = state.content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.stop_after])

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{httpd.server_port}/set.tar.gz"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def _download(server: _Server, folder: Path) -> Path:
    return download(
        server.url,
        folder / "new" / "set.tar.gz",
        md5=MD5,
        size_bytes=len(CONTENT),
        timeout_s=10,
        progress=False,
    )


def _write_part(folder: Path, content: bytes) -> Path:
    part = folder / "new" / "set.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(content)
    return part


def test_download__fetches_everything(server: _Server, tmp_path: Path) -> None:
    target = _download(server, tmp_path)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["set.tar.gz"]
    assert server.seen == [None]


def test_download__shows_progress(
    server: _Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(server.url, tmp_path / "x.gz", md5=MD5, size_bytes=len(CONTENT))
    assert "x.gz" in capsys.readouterr().err


def test_download__continues_a_part(server: _Server, tmp_path: Path) -> None:
    _write_part(tmp_path, CONTENT[:300_000])
    assert _download(server, tmp_path).read_bytes() == CONTENT
    assert server.seen == ["bytes=300000-"]


def test_download__starts_again_when_the_server_cannot_continue(
    server: _Server, tmp_path: Path
) -> None:
    server.ranges = False
    _write_part(tmp_path, CONTENT[:300_000])
    assert _download(server, tmp_path).read_bytes() == CONTENT


def test_download__keeps_the_part_of_a_broken_connection(server: _Server, tmp_path: Path) -> None:
    server.stop_after = 400_000
    with pytest.raises(OSError, match="run again to continue"):
        _download(server, tmp_path)
    part = tmp_path / "new" / "set.tar.gz.part"
    assert 0 < part.stat().st_size <= 400_000
    assert not part.with_suffix("").exists()
    server.stop_after = None
    assert _download(server, tmp_path).read_bytes() == CONTENT
    assert server.seen[1] is not None


def test_download__does_not_ask_for_a_complete_part(server: _Server, tmp_path: Path) -> None:
    _write_part(tmp_path, CONTENT)
    assert _download(server, tmp_path).read_bytes() == CONTENT
    assert server.seen == []


def test_download__leaves_an_existing_target(server: _Server, tmp_path: Path) -> None:
    target = tmp_path / "new" / "set.tar.gz"
    target.parent.mkdir()
    target.write_bytes(b"mine")
    assert _download(server, tmp_path).read_bytes() == b"mine"
    assert server.seen == []


def test_download__drops_a_part_that_is_too_long(server: _Server, tmp_path: Path) -> None:
    _write_part(tmp_path, CONTENT + b"more")
    assert _download(server, tmp_path).read_bytes() == CONTENT
    assert server.seen == [None]


def test_download__removes_a_part_with_a_wrong_checksum(server: _Server, tmp_path: Path) -> None:
    part = _write_part(tmp_path, bytes(300_000))
    with pytest.raises(ValueError, match=f"expected md5 {MD5}, got [0-9a-f]+; removed it"):
        _download(server, tmp_path)
    assert list(part.parent.iterdir()) == []
    assert _download(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("part_bytes", [0, 300_000])
def test_download__refuses_more_bytes_than_expected(
    server: _Server, tmp_path: Path, part_bytes: int
) -> None:
    server.content = CONTENT * 3
    part = _write_part(tmp_path, CONTENT[:part_bytes])
    with pytest.raises(ValueError, match=f"expected {len(CONTENT)} bytes"):
        _download(server, tmp_path)
    assert list(part.parent.iterdir()) == []


def test_download__refuses_a_file_shorter_than_the_part(server: _Server, tmp_path: Path) -> None:
    server.content = CONTENT[:1000]
    part = _write_part(tmp_path, CONTENT[:300_000])
    with pytest.raises(ValueError, match="another size"):
        _download(server, tmp_path)
    assert not part.exists()


@pytest.mark.parametrize("status", [404, 503])
def test_download__reports_the_servers_error(server: _Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(OSError, match=f"set.tar.gz answered {status}"):
        _download(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_download__reports_a_server_that_is_not_there(server: _Server, tmp_path: Path) -> None:
    server.url = "http://127.0.0.1:1/set.tar.gz"
    with pytest.raises(OSError, match="refused"):
        _download(server, tmp_path)


def test_download__rejects_other_addresses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected an http or https address"):
        download("file:///etc/hostname", tmp_path / "x", md5=MD5, size_bytes=1)
