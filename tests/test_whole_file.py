"""Tests of `wnet_nb.whole_file`: a file is whole, or it is not there."""

import hashlib
import os

import pytest

from wnet_nb.errors import UserError
from wnet_nb.whole_file import free_name, new_file, sha256, write_whole


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, OSError("disk full")])
def test_interrupted_write_leaves_the_old_file_and_no_half_one(interrupt, tmp_path):
    def write(path):
        path.write_bytes(b"half")
        raise interrupt

    path = tmp_path / "weights.bin"
    for before in (None, b"old"):
        if before:
            path.write_bytes(before)
        with pytest.raises(type(interrupt) if isinstance(interrupt, OSError) else interrupt):
            write_whole(path, write)
        assert [p.read_bytes() for p in tmp_path.iterdir()] == [before] * bool(before)


def test_file_is_not_under_its_name_before_it_is_whole(tmp_path):
    seen = []

    def write(path):
        path.write_bytes(b"first half")
        seen.append((tmp_path / "weights.bin").exists())
        path.write_bytes(b"whole")

    write_whole(tmp_path / "weights.bin", write)
    assert seen == [False] and (tmp_path / "weights.bin").read_bytes() == b"whole"


def test_a_file_that_appears_during_the_writing_is_not_replaced(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(UserError, match="never overwritten"), new_file(path) as partial:
        partial.write_bytes(b"mine")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_the_hash_is_the_sha256_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()


def test_file_that_cannot_be_hashed_is_named(tmp_path):
    with pytest.raises(UserError, match="absent"):
        sha256(tmp_path / "absent")


def test_new_file_works_without_hard_links_and_makes_its_folders(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "deep" / "a.txt"
    with new_file(path) as partial:
        partial.write_bytes(b"mine")
    with pytest.raises(UserError, match="never overwritten"), new_file(path):
        pass
    assert [p.read_bytes() for p in path.parent.iterdir()] == [b"mine"]


def test_a_free_name_is_the_name_itself_or_the_first_with_a_number(tmp_path):
    assert free_name(tmp_path / "a.zip") == tmp_path / "a.zip"
    (tmp_path / "a.zip").touch()
    (tmp_path / "a-2.zip").touch()
    assert free_name(tmp_path / "a.zip") == tmp_path / "a-3.zip"
