"""Checkpoints that are damaged or made to harm: one short message, soon, in little memory."""

import errno
import hashlib
import os
import resource
import struct
import threading
import time
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rwkvclip_models import CheckpointError, load_model, read_checkpoint
from rwkvclip_models.checkpoint import checkpoint_sha256, fit_state_dict


def rewritten(source, target, changes, **options):
    """Write an archive's members again, `changes` of them (by end of name) through a function."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for member in old.infolist():
            content = old.read(member)
            for end, change in changes.items():
                if member.filename.endswith(end):
                    content = change(content)
            new.writestr(member.filename, content)


def with_pickle(pickle):
    def write(path):
        torch.save({"w": torch.arange(1000.0)}, path)
        path.rename(path.with_suffix(".old"))
        rewritten(path.with_suffix(".old"), path, {"data.pkl": lambda _: pickle})

    return write


def write_compressed(path):
    torch.save({"w": torch.zeros(10_000_000)}, path)
    path.rename(path.with_suffix(".old"))
    rewritten(path.with_suffix(".old"), path, {}, compression=zipfile.ZIP_DEFLATED)


def write_itself(path):
    state = {}
    state["state_dict"] = state
    torch.save(state, path)


def write_overlapping(path):
    """An archive whose every member lies at one place."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"x" * 1000)
        for i in range(50):
            member = zipfile.ZipInfo(f"a/data/{i}")
            first = archive.infolist()[0]
            member.file_size = member.compress_size = first.file_size
            member.CRC, member.header_offset = first.CRC, first.header_offset
            archive.filelist.append(member)


def write_long_header(path):
    path.write_bytes(struct.pack("<Q", 20 << 20) + b"{" + b" " * (20 << 20))


def save(content):
    def write(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(content(), path)

    return write


quantized = torch.quantize_per_tensor
TUPLES = b"\x80\x02}K\x00K\x00\x86q\x00" + b"h\x00h\x00h\x00\x87q\x00" * 60 + b"K\x01s."
HARMFUL = {
    "compressed": (write_compressed, "compressed or encrypted"),
    "its own state dict": (write_itself, "holds no weights"),
    "members at one place": (write_overlapping, "members"),
    "memory asked for": (
        with_pickle(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x02\x85R."),
        "asks for memory",
    ),
    "tuples to hash for ever": (with_pickle(TUPLES), "a tuple of more than 100000 items"),
    "lists too deep": (with_pickle(b"\x80\x02" + b"(" * 200_000 + b"l" * 200_000 + b"."), "damaged"),
    "a pickle of 20 MB": (with_pickle(b"\x80\x02" + b"N0" * (10 << 20) + b"N."), "at most 16777216"),
    "no pickle": (with_pickle(b"PK\x05\x06" * 100), "damaged"),
    "a header of 20 MB": (write_long_header, "at most 16777216"),
    "float8": (save(lambda: {"w": torch.zeros(3, dtype=torch.float8_e4m3fn)}), r"w \(float8_e4m3fn\)"),
    "bool": (save(lambda: {"w": torch.zeros(3, dtype=torch.bool)}), r"w \(bool\)"),
    "complex": (save(lambda: {"w": torch.zeros(3, dtype=torch.complex64)}), r"w \(complex64\)"),
    "sparse": (save(lambda: {"w": torch.eye(3).to_sparse()}), r"w \(sparse_coo\)"),
    "sparse rows": (save(lambda: {"w": torch.eye(3).to_sparse_csr()}), r"w \(sparse_csr\)"),
    "without data": (save(lambda: {"w": torch.zeros(3, device="meta")}), r"w \(without data\)"),
    "quantized": (
        save(lambda: {"w": quantized(torch.zeros(3), 0.1, 0, torch.quint8)}),
        "quint8",
    ),
    "nested": (save(lambda: {"w": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])}), "nested"),
    "keys that are no names": (save(lambda: {(1, 2): torch.zeros(3)}), "holds no weights.*It holds: tuple"),
    "a name of a million letters": (save(lambda: {"x" * 1_000_000: 3}), "holds no weights"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write, said", HARMFUL.values(), ids=HARMFUL)
def test_a_harmful_checkpoint_is_one_short_message(tmp_path, write, said):
    path = tmp_path / "model.pt"
    write(path)
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=said) as caught:
        read_checkpoint(path)
    assert len(str(caught.value)) < 2000
    assert time.monotonic() - started < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_flipped_bytes_in_a_tensor_are_noticed(tmp_path, nano_config):
    path = tmp_path / "model.pt"
    torch.save(load_model(nano_config).state_dict(), path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    start = largest.header_offset + 200
    path.write_bytes(whole[:start] + bytes(b ^ 1 for b in whole[start : start + 400]) + whole[start + 400 :])
    torch.load(path, weights_only=True)  # takes no notice
    with pytest.raises(CheckpointError, match=r"is damaged in .*Bad CRC-32"):
        read_checkpoint(path)


def test_a_file_saved_without_sums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "m.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(tmp_path / "m.pt")["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("length", [0x3C, 0x3C20, 0x3C0A, 0x4B50, 0x80])
def test_a_safetensors_file_is_known_whatever_the_length_of_its_header(tmp_path, length):
    # As bytes: "<", " <", a line end and "<", "PK", and the first byte of a pickle.
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header += b" " * (length - len(header) - 1) + b"}"
    assert len(header) == length
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header + struct.pack("<f", 2.5))
    assert read_checkpoint(path)["w"].tolist() == [2.5]


def test_a_page_with_a_brace_at_the_same_place_is_still_a_page(tmp_path):
    (tmp_path / "m.pt").write_bytes(b"<script>{}</script>")
    with pytest.raises(CheckpointError, match="is a web page"):
        read_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("length", range(0, 24))
def test_a_safetensors_file_cut_anywhere_is_damaged(tmp_path, length):
    save_file({"w": torch.zeros(3)}, tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").write_bytes((tmp_path / "m.safetensors").read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"damaged|empty|neither"):
        read_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "header", [b"{}", b"{" * 1000, b'{"w":3}', b'{"w":{"dtype":"F32","shape":[9e9],"data_offsets":[0,4]}}',
               b'{"w":{"dtype":"X","shape":[1],"data_offsets":[0,4]}}', b'{"\xff":1}',
               b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}']
)  # fmt: skip
def test_a_safetensors_header_that_is_wrong_is_a_message(tmp_path, header):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(CheckpointError, match=r"damaged|holds no weights"):
        read_checkpoint(path)


def test_thousands_of_foreign_keys_are_a_short_message(tmp_path, nano_config):
    torch.save({f"foreign.{i}.{'x' * (i % 7)}.w{i}": torch.zeros(1) for i in range(3000)}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"Unexpected \(3000\)") as caught:
        load_model(nano_config, tmp_path / "m.pt")
    assert len(str(caught.value)) < 2000


def test_weights_that_overflow_when_they_are_cast_are_refused():
    with pytest.raises(CheckpointError, match="NaN or infinity in 1 tensors: w"):
        fit_state_dict({"w": torch.tensor([1e300], dtype=torch.float64)}, {"w": torch.zeros(1)}, "x")


def test_whole_numbers_are_no_weights():
    with pytest.raises(CheckpointError, match=r"expected floating-point weights, but w is torch\.int8"):
        fit_state_dict({"w": torch.zeros(1, dtype=torch.int8)}, {"w": torch.zeros(1)}, "x")


@pytest.mark.parametrize(("kind", "said"), [("pipe", "a named pipe"), ("zero", "a device")])
def test_a_pipe_and_a_device_are_not_opened(tmp_path, nano_config, kind, said):
    path = tmp_path / "m.pt"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=f"expected a file, found {said}"):
        load_model(nano_config, path)


def test_no_thread_is_left_behind(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "m.pt")
    before = threading.active_count()
    read_checkpoint(tmp_path / "m.pt")
    assert threading.active_count() == before


def test_of_a_checkpoint_that_is_refused_torch_says_nothing_itself(tmp_path, recwarn):
    HARMFUL["sparse"][0](tmp_path / "a.pt")
    recwarn.clear()
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "a.pt")
    assert not [str(warning.message) for warning in recwarn]


def test_a_file_of_the_system_that_says_it_is_empty_is_no_checkpoint(tmp_path, nano_config):
    for read in (load_model, lambda config, path: checkpoint_sha256(path)):
        with pytest.raises(CheckpointError, match="Cannot read the checkpoint /proc/self/mem: it is empty"):
            read(nano_config, Path("/proc/self/mem"))


def test_a_disk_that_fails_while_a_checkpoint_is_read_is_said_of_that_file(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "m.pt").write_bytes(b"PK" * 100)
    monkeypatch.setattr(hashlib, "file_digest", fails)
    with pytest.raises(CheckpointError, match=r"Cannot read the checkpoint \S+m\.pt: Input/output error"):
        checkpoint_sha256(tmp_path / "m.pt")
