"""Files of which nothing is known yet."""

import hashlib
import os

import pytest

from rwkvclip_models.disk import file_digest
from rwkvclip_models.errors import CheckpointError, UserError
from rwkvclip_models.files import parse_json, read_bytes, read_json, read_text, require_regular


def test_a_pipe_a_device_and_a_folder_are_refused_by_name_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a named pipe"), ("zero", "a device"), (".", "a folder")):
        with pytest.raises(UserError, match=f"Cannot read the suite .*: expected a file, found {kind}"):
            require_regular(tmp_path / name, "suite")
        with pytest.raises(UserError, match=kind):
            read_bytes(tmp_path / name, limit=10, what="suite")


def test_a_file_is_read_through_a_link_and_one_that_is_absent_is_said(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").symlink_to("nowhere")
    assert require_regular(tmp_path / "b", "suite").st_size == 3
    assert read_bytes(tmp_path / "b", limit=3, what="suite") == b"abc"
    with pytest.raises(UserError, match=r"Cannot read the suite .*c: No such file or directory"):
        read_bytes(tmp_path / "c", limit=3, what="suite")
    with pytest.raises(UserError, match="embedded null byte"):
        require_regular("a\0b", "suite")


def test_a_larger_file_is_refused_also_where_its_size_is_not_known(tmp_path):
    (tmp_path / "a").write_bytes(b"abcd")
    with pytest.raises(CheckpointError, match="has 4 bytes or more; at most 3 are read"):
        read_bytes(tmp_path / "a", limit=3, what="checkpoint", error=CheckpointError)
    with pytest.raises(UserError, match="at most 3 are read"):
        read_bytes("/proc/self/status", limit=3, what="suite")


def test_text_that_is_not_utf_8_is_said_with_its_byte(tmp_path):
    (tmp_path / "a").write_bytes(b"ab\r\nc\rd")
    (tmp_path / "b").write_bytes(b"ab\xffc")
    assert read_text(tmp_path / "a", what="suite") == "ab\nc\nd"
    with pytest.raises(UserError, match="byte 2 is 0xff"):
        read_text(tmp_path / "b", what="suite")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[NaN]", "holds NaN"),
        ("[-Infinity]", "holds -Infinity"),
        ("[1e999]", "holds 1e999"),
        ("9" * 5000, "too many digits"),
    ],
)
def test_json_that_is_none_is_a_message(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        read_json(tmp_path / "a.json", what="configuration")
    assert "a.json" in str(caught.value)
    assert len(str(caught.value)) < 500
    with pytest.raises(UserError, match=said):
        parse_json(text, "answer")


def test_a_digest_of_several_files_is_that_of_their_bytes_in_the_order_given(tmp_path):
    first, second, empty = (tmp_path / name for name in "abc")
    first.write_bytes(b"first" * 100_000)
    second.write_bytes(b"second")
    empty.write_bytes(b"")
    whole = first.read_bytes() + second.read_bytes()
    assert file_digest(first, empty, second) == hashlib.sha256(whole).hexdigest()
    assert file_digest(second, first) != file_digest(first, second)
    assert file_digest(first, algorithm="md5") == hashlib.md5(first.read_bytes()).hexdigest()
