"""Archives, downloads and checksum files that somebody else made."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from rwkvclip_eval.data.archives import other_content, unpack
from rwkvclip_eval.data.catalogue import Download, catalogue
from rwkvclip_eval.data.checksums import wrong_sums
from rwkvclip_eval.data.download import trust_remarks
from rwkvclip_eval.data.http import wrong_file
from rwkvclip_eval.errors import DamagedData

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("little_memory")]

DEEP = "[" * 100_000


def zip_of(path: Path, name: str = "a.txt", content: bytes = b"x") -> bytes:
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr(name, content)
    return path.read_bytes()


def broken_archives(root: Path) -> dict[str, tuple[str, bytes, str]]:
    plain = zip_of(root / "plain.zip", content=b"a" * 1000)
    encrypted = plain.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01").replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
    )
    assert encrypted != plain
    unknown = bytearray(plain)
    unknown[8], unknown[plain.index(b"PK\x01\x02") + 10] = 99, 99
    packed = bytearray(gzip.compress(os.urandom(5000)))
    packed[2000] ^= 0xFF
    fifo = io.BytesIO()
    with tarfile.open(fileobj=fifo, mode="w") as tar:
        info = tarfile.TarInfo("pipe")
        info.type = tarfile.FIFOTYPE
        tar.addfile(info)
    link = io.BytesIO()
    with tarfile.open(fileobj=link, mode="w") as tar:
        info = tarfile.TarInfo("out")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(info)
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    # Other formats put a size of so many digits elsewhere, and 0 in its place.
    of_8_gib = header.tobuf(tarfile.GNU_FORMAT)
    return {
        "encrypted": ("a.zip", encrypted, "encrypted"),
        "unknown compression": ("a.zip", bytes(unknown), "compression"),
        "cut zip": ("a.zip", plain[:-30], "zip"),
        "outside": ("a.zip", zip_of(root / "o.zip", "../x"), "outside"),
        "absolute": ("a.zip", zip_of(root / "o.zip", "/elsewhere/x"), "outside"),
        "corrupt gz": ("a.mat.gz", bytes(packed), "cannot be unpacked"),
        "no gz": ("a.mat.gz", b"<html>", "cannot be unpacked"),
        "cut gz": ("a.mat.gz", gzip.compress(os.urandom(5000))[:3000], "cannot be unpacked"),
        "corrupt tgz": ("a.tgz", bytes(packed), "cannot be unpacked"),
        "no bz2": ("a.tar.bz2", b"nothing", "cannot be unpacked"),
        "no xz": ("a.tar.xz", b"nothing", "cannot be unpacked"),
        "pipe in a tar": ("a.tar", fifo.getvalue(), "cannot be unpacked"),
        "link out of a tar": ("a.tar", link.getvalue(), "cannot be unpacked"),
        "header of 8 GiB": ("a.tgz", gzip.compress(of_8_gib + bytes(4096)), "cannot be unpacked"),
        "empty": ("a.tar", b"", "cannot be unpacked"),
    }


ARCHIVES = (
    *("encrypted", "unknown compression", "cut zip", "outside", "absolute", "corrupt gz", "no gz", "cut gz"),
    *("corrupt tgz", "no bz2", "no xz", "pipe in a tar", "link out of a tar", "header of 8 GiB", "empty"),
)


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_that_is_broken_is_damage_and_leaves_nothing_outside(tmp_path: Path, what: str) -> None:
    made = tmp_path / "made"
    made.mkdir()
    name, content, said = broken_archives(made)[what]
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / name).write_bytes(content)
    with pytest.raises(DamagedData, match=said):
        unpack(inside / name)
    assert [p.name for p in inside.iterdir()] == [name]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "made"]


def test_a_web_page_in_place_of_an_archive_is_no_success(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_text("\n<!DOCTYPE html><title>404</title>")
    download = Download(url="https://x/caption_datasets.zip", file="caption_datasets.zip")
    assert wrong_file(page, download) == "expected a .zip file, found a web page"
    page.write_bytes(b"")
    assert "something else" in wrong_file(page, download)
    zip_of(page)
    assert wrong_file(page, download) == ""
    for name in ("x.tar.gz", "x.tgz", "x.gz", "x.mat"):
        assert other_content(page, name)
    assert other_content(page, "x.txt") == ""


def test_files_that_are_not_surely_their_authors_are_named() -> None:
    (food,) = catalogue()["food101"].variants.values()
    assert " ".join(trust_remarks(food.downloads)) == (
        "By MD5 alone, which finds damage and no forgery: food-101.tar.gz. Over plain http, which anybody on "
        "the way can change: food-101.tar.gz."
    )
    flickr = catalogue()["flickr30k"].variants["default"]
    assert "No checksum is known of caption_datasets.zip" in " ".join(trust_remarks(flickr.downloads))
    assert trust_remarks(catalogue()["kitti"].variants["default"].downloads) == []


def test_checksums_of_files_outside_the_folder_are_not_computed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("x")
    sums = "".join(f"{'0' * 64}  {name}\n" for name in ("../secret", "/etc/passwd", "/dev/zero", "gone"))
    (tmp_path / "in" / "SHA256SUMS").write_text(sums)
    said = wrong_sums(tmp_path / "in")
    assert [text.split(":")[0] for text in said] == ["a file outside the folder"] * 3 + ["gone is missing"]
