"""Servers that say one thing and send another."""

import hashlib
import http.server
import threading

import pytest

from rwkvclip_eval.data.catalogue import Download
from rwkvclip_eval.data.http import fetch_file
from rwkvclip_eval.errors import DamagedData, DataNotFound

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def serve():
    """Starts a server whose answer is the status, headers and body given; returns its address."""
    running = []

    def start(status, headers, body, times=1):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    for _ in range(times):
                        self.wfile.write(body)
                except OSError:
                    pass

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def download(address, **facts):
    facts = {"sha256": hashlib.sha256(CONTENT).hexdigest(), "bytes": len(CONTENT), **facts}
    return Download(url=f"{address}/set.bin", file="set.bin", **facts)


def test_a_body_longer_than_announced_is_not_written_to_its_end(tmp_path, serve):
    address = serve(200, {}, CONTENT, times=2000)
    with pytest.raises(DamagedData, match=rf"expected {len(CONTENT)} bytes, found \d{{1,7}}\."):
        fetch_file(download(address), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_body_of_no_announced_length_is_bounded_by_what_any_file_may_have(tmp_path, serve, monkeypatch):
    monkeypatch.setattr("rwkvclip_eval.data.http.MOST_BYTES", 100_000)
    address = serve(200, {}, CONTENT, times=2000)
    with pytest.raises(DataNotFound, match="more than 100000 bytes came"):
        fetch_file(download(address, bytes=None, sha256=None), tmp_path)


@pytest.mark.parametrize("length", ["abc", "-5", "9" * 400, "1e3", ""])
def test_a_length_that_is_none_is_a_message_or_no_length(tmp_path, serve, length):
    address = serve(200, {"Content-Length": length}, CONTENT)
    try:
        assert fetch_file(download(address), tmp_path).read_bytes() == CONTENT
    except (DataNotFound, DamagedData) as error:
        assert len(str(error)) < 2000


def test_a_part_that_begins_elsewhere_is_not_put_behind_what_is_there(tmp_path, serve):
    (tmp_path / "set.bin.part").write_bytes(CONTENT[:1000])
    headers = {"Content-Length": str(len(CONTENT)), "Content-Range": f"bytes 0-{len(CONTENT)}/{len(CONTENT)}"}
    address = serve(206, headers, CONTENT)
    assert fetch_file(download(address), tmp_path).read_bytes() == CONTENT
