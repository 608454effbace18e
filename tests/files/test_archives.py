"""Hostile and damaged archives leave nothing behind; ordinary ones come out as they went in."""

import gzip
import io
import shutil
import stat
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wnet_nb.errors import UserError
from wnet_nb.files import archives
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
def test_too_many_files_are_refused(pack, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_FILES", 10)
    many = pack(*((f"{n}", b"") for n in range(12)))
    refused_archive(many, tmp_path, "more than 10 files")


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


@pytest.mark.parametrize("pack", [zip_of, tar_of])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.tif", "./a.tif"),
        ("a.tif", "A.TIF"),
        ("stacks/a.tif", "Stacks/b.tif"),
        ("Gr\u00f6\u00dfe.tif", "Gro\u0308\u00dfe.tif"),  # composed and decomposed
        ("a", "a/b"),
        ("a/b", "A"),
    ],
)
def test_names_that_other_computers_take_for_one_are_refused(pack, one, other, tmp_path):
    refused_archive(pack((one, b"1"), (other, b"2")), tmp_path, "one name on many computers")


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_name_too_long_for_the_disk_is_refused(pack, tmp_path):
    refused_archive(pack(("a" * 300 + ".tif", b"1")), tmp_path, "damaged")


def test_an_encrypted_zip_is_refused(tmp_path):
    content = bytearray(zip_of(("a", b"secret")))
    content[6] |= 1  # the flag of the local heading
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and of the directory
    refused_archive(bytes(content), tmp_path, "password")


def test_a_zip_in_a_zip_is_not_opened(tmp_path):
    (tmp_path / "archive").write_bytes(zip_of(("inner.zip", zip_of(("../evil", b"x")))))
    files = unpack(tmp_path / "archive", tmp_path / "new")
    assert [f.name for f in files] == ["inner.zip"]


def test_a_link_that_a_later_file_would_go_through_is_refused(tmp_path):
    content = tar_of(("out", b"", tarfile.SYMTYPE), ("out/evil", b"x"))
    refused_archive(content, tmp_path, "not a plain file")


def test_a_zip_from_windows_has_its_folders(tmp_path):
    (tmp_path / "archive").write_bytes(
        zip_of(("mine\\", b""), ("mine\\er\\a.tif", b"1"), ("mine\\b.tif", b"2"))
    )
    files = unpack(tmp_path / "archive", tmp_path / "new")
    assert [str(f.relative_to(tmp_path / "new")) for f in files] == ["mine/er/a.tif", "mine/b.tif"]


def test_a_zip_that_macos_made_gives_the_stacks_alone(tmp_path):
    made = zip_of(
        ("mine/", b""),
        ("mine/.DS_Store", b"junk"),
        ("mine/Größe 1.tif", b"1"),
        ("__MACOSX/mine/._Größe 1.tif", b"junk"),
        ("mine/deep/", b""),
        ("mine/deep/b.tif", b""),
        ("mine/deep/._b.tif", b"junk"),
    )
    (tmp_path / "archive").write_bytes(made)
    unpack(tmp_path / "archive", tmp_path / "new")
    assert [p for p in everything_below(tmp_path / "new") if p.endswith("tif")] == [
        "mine/Größe 1.tif",
        "mine/deep/b.tif",
    ]


def test_folders_made_by_the_usual_programs_come_out_as_they_went_in(tmp_path):
    source = tmp_path / "mine"
    (source / "deep").mkdir(parents=True)
    (source / "a.tif").write_bytes(b"1" * 3000)
    (source / "deep" / "b.tif").write_bytes(b"2")
    for kind in ("zip", "tar", "gztar"):
        packed = shutil.make_archive(tmp_path / f"packed_{kind}", kind, tmp_path, "mine")
        target = tmp_path / f"new_{kind}"
        files = unpack(Path(packed), target)
        assert {str(f.relative_to(target)) for f in files} == {"mine/a.tif", "mine/deep/b.tif"}
        assert (target / "mine" / "a.tif").read_bytes() == b"1" * 3000


PIECES = st.sampled_from(
    ["a", "A", "b.tif", "..", ".", "", "/", "\\", "C:", "é", "e\u0301", " ", "."]
)
NAMES = st.lists(PIECES | st.text(max_size=3), min_size=1, max_size=5).map("/".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAMES, min_size=1, max_size=4), pack=st.sampled_from([zip_of, tar_of]))
def test_whatever_the_names_all_is_inside_or_all_is_refused(tmp_path, names, pack):
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    with warnings.catch_warnings(action="ignore"):  # of zipfile, on names that are there twice
        try:
            content = pack(*((name, b"1") for name in names))
        except (ValueError, UnicodeError):  # no archive can hold such a name
            return
    (place / "archive").write_bytes(content)
    try:
        files = unpack(place / "archive", place / "deep" / "new")
    except UserError:
        assert everything_below(place) == ["archive", "deep"]
    else:
        inside = {file for file in (place / "deep" / "new").rglob("*") if file.is_file()}
        assert inside == set(files) and all(file.read_bytes() == b"1" for file in files)
        left = {path.parts[0] for path in map(Path, everything_below(place))}
        assert left == {"archive", "deep"} and len(list((place / "deep").iterdir())) == 1


def test_a_crash_while_unpacking_leaves_no_folder_under_the_name(tmp_path, monkeypatch):
    (tmp_path / "archive").write_bytes(zip_of(("a", b"1"), ("b", b"2")))
    monkeypatch.setattr(shutil, "copyfileobj", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        unpack(tmp_path / "archive", tmp_path / "new")
    assert everything_below(tmp_path) == ["archive"]
