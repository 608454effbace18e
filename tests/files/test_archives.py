"""Hostile and damaged archives leave nothing behind; ordinary ones come out as they went in."""

import gzip
import io
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from wnet_nb.errors import UserError
from wnet_nb.files.archives import unpack


def zip_of(*members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, *mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode[0] if mode else 0) << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def tar_of(*members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content, *kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = (kind[0], "/etc/hostname") if kind else (b"0", "")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def everything_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def refused_archive(content, tmp_path, words, **options):
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        unpack(tmp_path / "archive", tmp_path / "deep" / "target", **options)
    assert "\n" not in str(caught.value)
    assert everything_below(tmp_path) == ["archive", "deep"]


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_an_archive_is_unpacked_with_its_folders(pack, tmp_path):
    junk = ("__MACOSX/._a.tif", b"junk")
    (tmp_path / "archive").write_bytes(pack(("a.tif", b"1"), ("deep/er/b.tif", b"22"), junk))
    files = unpack(tmp_path / "archive", tmp_path / "new")
    assert [f.read_bytes() for f in files] == [b"1", b"22"]
    assert everything_below(tmp_path / "new") == ["a.tif", "deep", "deep/er", "deep/er/b.tif"]


@pytest.mark.parametrize("pack", [zip_of, tar_of])
@pytest.mark.parametrize(
    "name",
    ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil", "\\\\host\\share\\evil"],
)
def test_a_path_that_leads_outside_is_refused(pack, name, tmp_path):
    refused_archive(pack(("good", b"1"), (name, b"x")), tmp_path, "points outside")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(kind, tmp_path):
    refused_archive(tar_of(("good", b"1"), ("bad", b"", kind)), tmp_path, "not a plain file")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_refused(mode, tmp_path):
    content = zip_of(("good", b"1"), ("bad", b"/etc/hostname", mode | 0o644))
    refused_archive(content, tmp_path, "not a plain file")


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_an_archive_that_swells_is_refused(pack, tmp_path):
    bomb = pack(("a", bytes(600_000)), ("b", bytes(600_000)))
    assert len(bomb) < 10_000
    refused_archive(bomb, tmp_path, "more than 1000000 bytes", largest_bytes=1_000_000)


def test_a_zip_that_lies_about_its_size_is_refused(tmp_path):
    honest = zip_of(("a", bytes(600_000)))
    lie = honest.replace((600_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    refused_archive(lie, tmp_path, "damaged", largest_bytes=1_000_000)


def test_headings_that_swell_are_refused(tmp_path):
    heading = tarfile.TarInfo("a")
    heading.pax_headers = {"comment": "x" * 12_000_000}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(heading)
    packed = gzip.compress(buffer.getvalue())
    refused_archive(packed, tmp_path, "larger than any honest one")


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_too_many_files_are_refused(pack, tmp_path):
    many = pack(*((f"{n}", b"") for n in range(12)))
    refused_archive(many, tmp_path, "more than 10 files", most_files=10)


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_file_that_is_also_a_folder_is_refused(pack, tmp_path):
    refused_archive(pack(("a", b"1"), ("a/b", b"2")), tmp_path, "one name")


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_damaged_archive_is_refused(pack, tmp_path):
    content = bytearray(pack(("a", np.random.default_rng(0).bytes(5000))))
    content[2000] ^= 255
    refused_archive(bytes(content), tmp_path, "damaged")
    refused_archive(bytes(content[:3000]), tmp_path, "damaged")


def test_other_files_are_no_archives(tmp_path):
    refused_archive(b"II*\0" + bytes(600), tmp_path, "no zip")


def test_a_folder_that_exists_is_not_unpacked_into(tmp_path):
    (tmp_path / "archive").write_bytes(zip_of(("a", b"1")))
    with pytest.raises(UserError, match="exists"):
        unpack(tmp_path / "archive", tmp_path)
