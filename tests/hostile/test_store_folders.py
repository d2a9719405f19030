"""What is named as a feature store and is no folder."""

import os

import pytest

PLACES = {
    "a file": lambda path: path.write_text("x"),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/null"),
    "a link to nothing": lambda path: path.symlink_to("gone"),
}


@pytest.mark.parametrize("command", ["show", "clear"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_folder_is_refused_as_a_store(tmp_path, run, command, place):
    PLACES[place](tmp_path / "store")
    code, _, messages = run("cache", command, "--cache", tmp_path / "store")
    assert code == 2
    assert "is no folder" in messages


@pytest.mark.parametrize("command", ["show", "clear"])
def test_a_store_that_is_not_there_yet_is_empty(tmp_path, run, command):
    code, said, _ = run("cache", command, "--cache", tmp_path / "gone")
    assert code == 0
    assert "0 entries" in said
    assert not (tmp_path / "gone").exists()
