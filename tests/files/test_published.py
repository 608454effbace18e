import gzip
import io
import sys
import tarfile

import pytest

from wnet_nb import checkpoint
from wnet_nb.errors import UserError
from wnet_nb.files import download, published
from wnet_nb.model import WNet3D

NAME = published.PUBLISHED_FILE


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    monkeypatch.setattr(download, "WAITS_SECONDS", (0, 0))


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / NAME
    checkpoint.save_cellseg3d_weights(path, WNet3D(2, base_channels=4))
    return path.read_bytes()


def archive(*members):
    """Return a .tar.gz of (name, content or TarInfo) members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members:
            if isinstance(content, bytes):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                content.name = name
                tar.addfile(content)
    return buffer.getvalue()


def special(kind, target=""):
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def test_published_weights_are_fetched_once_and_load(serve, state, tmp_path):
    seen = []
    url = serve(archive(("notes.txt", b"hello"), (NAME, state)))
    path = published.fetch_published(
        url=url, folder=tmp_path / "cache", progress=lambda *done: seen.append(done)
    )
    assert path.read_bytes() == state
    assert checkpoint.load_checkpoint(path).settings.base_channels == 4
    assert seen[-1][0] == seen[-1][1] > 0
    published.fetch_published(url=url, folder=tmp_path / "cache")
    assert len(serve.asked) == 1
    assert sorted(p.name for p in path.parent.iterdir()) == [NAME, f"{NAME}.sha256"]


def test_weights_that_changed_in_the_cache_are_fetched_again(serve, state, tmp_path):
    url = serve(archive((NAME, state)))
    path = published.fetch_published(url=url, folder=tmp_path)
    path.write_bytes(state + b"x")
    assert published.fetch_published(url=url, folder=tmp_path).read_bytes() == state
    assert len(serve.asked) == 2


def test_weights_without_a_record_are_fetched_again(serve, state, tmp_path):
    (tmp_path / NAME).write_bytes(b"from anywhere")
    path = published.fetch_published(url=serve(archive((NAME, state))), folder=tmp_path)
    assert path.read_bytes() == state


def test_other_weights_than_those_of_the_first_receipt_are_refused(serve, state, tmp_path):
    path = published.fetch_published(url=serve(archive((NAME, state))), folder=tmp_path)
    path.unlink()
    checkpoint.save_cellseg3d_weights(tmp_path / "other", WNet3D(3, base_channels=4))
    url = serve(archive((NAME, (tmp_path / "other").read_bytes())))
    with pytest.raises(UserError, match="hash"):
        published.fetch_published(url=url, folder=tmp_path)
    assert not path.exists()


def test_the_cache_is_the_folder_that_this_system_has_for_it(serve, state, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = published.fetch_published(url=serve(archive((NAME, state))))
    assert path.is_relative_to(tmp_path) or sys.platform != "linux"


def refused(url, tmp_path, words):
    cache = tmp_path / "deep" / "cache"
    with pytest.raises(UserError, match=words):
        published.fetch_published(url=url, folder=cache)
    left = [p for p in tmp_path.rglob("*") if p.is_file() or p.is_symlink()]
    assert left == [], "nothing may be left, inside the cache or outside"


def test_a_web_page_in_place_of_the_file_is_recognised(serve, tmp_path):
    refused(serve(b"<!DOCTYPE html><p>sign in"), tmp_path, "sent a web page")


def test_no_connection_is_told(tmp_path):
    refused("http://127.0.0.1:9/wnet_latest.tar.gz", tmp_path, "internet connection")


def test_a_download_that_broke_off_is_refused(serve, state, tmp_path):
    body = archive((NAME, state))
    refused(serve(body[:-500], length=len(body)), tmp_path, "cannot be fetched")


def test_a_hostile_member_beside_the_weights_spoils_them(serve, state, tmp_path):
    for bad in (("../evil.txt", b"x"), ("link", special(tarfile.SYMTYPE, "/"))):
        refused(serve(archive((NAME, state), bad)), tmp_path, "outside|not a plain file")


def test_an_archive_that_swells_is_refused(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "LARGEST_BYTES", 100_000)
    url = serve(archive(("padding", bytes(10_000_000)), (NAME, b"x")))
    refused(url, tmp_path, "more than 100000 bytes")


def test_a_download_beyond_the_limit_is_refused(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "LARGEST_BYTES", 1000)
    refused(serve(gzip.compress(b"x") + bytes(5000)), tmp_path, "more than 1000 bytes")


def test_an_archive_without_the_weights_is_refused(serve, tmp_path):
    refused(serve(archive(("readme.txt", b"hello"))), tmp_path, f"holds no {NAME}")


def test_a_file_that_is_no_network_is_refused(serve, tmp_path):
    refused(serve(archive((NAME, b"not a state dict"))), tmp_path, "no usable weights")
