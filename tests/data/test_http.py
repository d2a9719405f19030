"""A real server with byte ranges, on this machine, that can break a connection."""

import gzip
import hashlib
import http.server
import io
import re
import tarfile
import threading
import zipfile

import pytest

from rwkvclip_eval.data.archives import unpack
from rwkvclip_eval.data.catalogue import Download, catalogue
from rwkvclip_eval.data.http import fetch_file
from rwkvclip_eval.data.hub import HubFile, wrong_hub_files
from rwkvclip_eval.errors import DamagedData, DataNotFound, OutputError

CONTENT = bytes(range(256)) * 20000


@pytest.fixture
def server():
    """(address, requested ranges, list that holds after how many bytes the next answer breaks off)."""
    ranges, break_after = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/set.bin":
                self.send_error(404)
                return
            asked = self.headers.get("Range")
            ranges.append(asked)
            start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked else 0
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            stop = start + break_after.pop() if break_after else len(CONTENT)
            self.wfile.write(CONTENT[start:stop])

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", ranges, break_after
    running.shutdown()
    running.server_close()


def download(address, **facts):
    facts = {"sha256": hashlib.sha256(CONTENT).hexdigest(), "bytes": len(CONTENT), **facts}
    return Download(url=f"{address}/set.bin", file="set.bin", **facts)


def test_a_broken_connection_is_resumed_at_the_byte_it_broke_at(tmp_path, server):
    address, ranges, break_after = server
    break_after.append(3_000_000)
    with pytest.raises(DataNotFound, match="the same command continues"):
        fetch_file(download(address), tmp_path)
    kept = (tmp_path / "set.bin.part").stat().st_size
    assert 0 < kept <= 3_000_000 and not (tmp_path / "set.bin").exists()
    assert fetch_file(download(address), tmp_path).read_bytes() == CONTENT
    assert ranges == [None, f"bytes={kept}-"]
    fetch_file(download(address), tmp_path)
    assert len(ranges) == 2


def test_without_a_checksum_no_two_parts_are_joined(tmp_path, server):
    address, ranges, break_after = server
    break_after.append(3_000_000)
    with pytest.raises(DataNotFound, match="Cannot fetch") as error:
        fetch_file(download(address, sha256=None), tmp_path)
    assert "continues" not in str(error.value)
    assert fetch_file(download(address, sha256=None), tmp_path).read_bytes() == CONTENT
    assert ranges == [None, None]


def test_every_public_file_of_the_catalogue_has_a_sum_but_karpathys_captions():
    unsummed = {
        download.file
        for entry in catalogue().values()
        for variant in entry.variants.values()
        for download in variant.downloads
        if not download.has_sum
    }
    assert unsummed == {"caption_datasets.zip"}


def test_a_whole_part_file_is_only_checked(tmp_path, server):
    address, ranges, _ = server
    (tmp_path / "set.bin.part").write_bytes(CONTENT)
    assert fetch_file(download(address), tmp_path).read_bytes() == CONTENT
    assert ranges == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("facts", [{"sha256": "0" * 64}, {"sha256": None, "md5": "0" * 32}, {"bytes": 5}])
def test_what_the_catalogue_contradicts_is_deleted(tmp_path, server, facts):
    with pytest.raises(DamagedData, match=r"expected .* found"):
        fetch_file(download(server[0], **facts), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_and_a_server_that_is_not_there_say_so(tmp_path, server):
    missing = Download(url=f"{server[0]}/other.bin", file="other.bin")
    with pytest.raises(DataNotFound, match=r"404.*put it at"):
        fetch_file(missing, tmp_path)
    with pytest.raises(DataNotFound, match="Cannot fetch"):
        fetch_file(Download(url="http://127.0.0.1:9/x", file="x"), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        fetch_file(download(server[0]), tmp_path / "file")


def test_archives_are_unpacked_beside_themselves(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("inner/z.txt", "zip")
    with tarfile.open(tmp_path / "b.tgz", "w:gz") as tar:
        member = tarfile.TarInfo("inner/t.txt")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"tar"))
    (tmp_path / "c.mat.gz").write_bytes(gzip.compress(b"gz"))
    (tmp_path / "d.mat").write_bytes(b"plain")
    assert [unpack(tmp_path / n) for n in ("a.zip", "b.tgz", "c.mat.gz", "d.mat")] == [True] * 3 + [False]
    assert (tmp_path / "inner" / "z.txt").read_text() == "zip"
    assert (tmp_path / "inner" / "t.txt").read_text() == "tar"
    assert (tmp_path / "c.mat").read_bytes() == b"gz"


def test_members_that_would_leave_the_folder_are_refused(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    with zipfile.ZipFile(inside / "a.zip", "w") as zipped:
        zipped.writestr("../escaped.txt", "x")
    with tarfile.open(inside / "b.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../escaped.txt"))
    (inside / "c.zip").write_bytes(b"no archive")
    for name in ("a.zip", "b.tar", "c.zip"):
        with pytest.raises(DamagedData):
            unpack(inside / name)
    assert not (tmp_path / "escaped.txt").exists()


def test_files_the_hub_contradicts_are_found(tmp_path):
    (tmp_path / "good").write_bytes(b"abc")
    (tmp_path / "bad").write_bytes(b"abx")
    digest = hashlib.sha256(b"abc").hexdigest()
    files = [HubFile("good", 3, digest), HubFile("bad", 3, digest), HubFile("absent", 3, None)]
    assert wrong_hub_files(files, tmp_path) == [tmp_path / "bad", tmp_path / "absent"]
