"""Downloads against a local server; gdown's own requests to Drive are led there too."""

import gzip
import hashlib
import io
import stat
import tarfile
import zipfile
from urllib.parse import urlparse

import numpy as np
import pytest
import requests
import tifffile

from wnet_nb.errors import UserError
from wnet_nb.files import download as fetch

DRIVE = "https://drive.google.com/file/d/1AbCdEfGhIjKlMnOpQrStUvWxYz012345/view?usp=sharing"
QUOTA = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>"
QUOTA += b'<p class="uc-error-subcaption">Too many users have viewed this file.</p></body></html>'


@pytest.fixture
def drive(serve, monkeypatch):
    """Lead requests for Drive to the local server."""
    original = requests.Session.request

    def start(body, **answer):
        host = urlparse(serve(body, **answer)).netloc

        def request(self, method, url, **options):
            parts = urlparse(url)
            assert parts.hostname == "drive.google.com"
            local = parts._replace(scheme="http", netloc=host).geturl()
            return original(self, method, local, **options)

        monkeypatch.setattr(requests.Session, "request", request)
        return DRIVE

    start.asked = serve.asked
    return start


def tiff_bytes():
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, np.arange(60, dtype=np.uint8).reshape(3, 4, 5), photometric="minisblack"
    )
    return buffer.getvalue()


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


def refused_download(source, tmp_path, words, **options):
    with pytest.raises(UserError, match=words) as caught:
        fetch.download(source, tmp_path / "new", **options)
    assert "\n" not in str(caught.value)
    assert everything_below(tmp_path) == []


def refused_archive(content, tmp_path, words, **options):
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        fetch.unpack(tmp_path / "archive", tmp_path / "deep" / "target", **options)
    assert "\n" not in str(caught.value)
    assert everything_below(tmp_path) == ["archive", "deep"]


ID = "1AbCdEfGhIjKlMnOpQrStUvWxYz012345"


@pytest.mark.parametrize(
    "link",
    [
        DRIVE,
        ID,
        f"https://drive.google.com/open?id={ID}",
        f"https://drive.google.com/uc?export=download&id={ID}",
    ],
)
def test_every_form_of_a_drive_link_brings_the_file(drive, tmp_path, link):
    seen = []
    drive(tiff_bytes(), Content_Disposition='attachment; filename="a.tif"', Content_Type="x/y")
    path = fetch.download(link, tmp_path / "a.tif", progress=lambda *done: seen.append(done))
    assert path.read_bytes() == tiff_bytes()
    assert drive.asked == [f"/uc?id={ID}"]
    assert seen[-1][0] == len(tiff_bytes())
    assert everything_below(tmp_path) == ["a.tif"]


def test_the_quota_page_of_drive_is_explained(drive, tmp_path):
    link = drive(QUOTA, Content_Type="text/html; charset=utf-8")
    refused_download(link, tmp_path, "too many people|web page")


def test_a_page_that_pretends_to_be_the_file_is_recognised(drive, tmp_path):
    link = drive(QUOTA, Content_Disposition='attachment; filename="a.tif"', Content_Type="x/y")
    refused_download(link, tmp_path, "web page")


def test_a_drive_download_that_broke_off_is_refused(drive, tmp_path):
    body = tiff_bytes()
    link = drive(body[:-9], length=len(body), Content_Disposition="attachment", Content_Type="x/y")
    refused_download(link, tmp_path, "does not give")


def test_gdown_5_and_6_report_failure_in_their_own_ways(tmp_path, monkeypatch):
    import gdown

    monkeypatch.setattr(gdown, "download", lambda **options: None)
    refused_download(DRIVE, tmp_path, "does not give")

    def fails(**options):
        raise gdown.exceptions.FileURLRetrievalError("Failed to retrieve file url:\n\n\tno access")

    monkeypatch.setattr(gdown, "download", fails)
    refused_download(DRIVE, tmp_path, "does not give")


def test_a_link_to_a_drive_folder_says_what_to_do(tmp_path):
    link = "https://drive.google.com/drive/folders/1AbCdEfGhIjKlMnOpQrStUvWxYz012345"
    refused_download(link, tmp_path, "zip of the folder")


def test_a_file_from_an_ordinary_server_is_fetched(serve, tmp_path):
    path = fetch.download(serve(tiff_bytes()), tmp_path / "new", kinds=("tiff",))
    assert tifffile.imread(path).shape == (3, 4, 5)


def test_a_hash_at_the_end_of_an_address_is_checked(serve, drive, tmp_path):
    right = "#sha256=" + hashlib.sha256(b"hello").hexdigest().upper()
    refused_download(serve(b"other") + right, tmp_path, "not the expected file")
    answer = {"Content_Disposition": "attachment", "Content_Type": "x/y"}
    refused_download(drive(b"other", **answer) + right, tmp_path, "not the expected file")
    fetch.download(drive(b"hello", **answer) + right, tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"hello"


def test_a_download_that_broke_off_is_refused(serve, tmp_path):
    refused_download(serve(b"hello", length=50), tmp_path, "broke off|cannot be fetched")


def test_another_kind_of_file_is_refused(serve, tmp_path):
    refused_download(serve(b"hello"), tmp_path, "something else than zip", kinds=("zip",))


def test_a_download_beyond_the_limit_is_refused(serve, drive, tmp_path):
    refused_download(serve(bytes(2000)), tmp_path, "more than 1000", largest_bytes=1000)
    link = drive(bytes(2000), Content_Disposition="attachment", Content_Type="x/y")
    refused_download(link, tmp_path, "more than 1000", largest_bytes=1000)


def test_a_file_that_exists_is_not_replaced(serve, tmp_path):
    (tmp_path / "new").write_text("mine")
    with pytest.raises(ValueError, match="never overwritten"):
        fetch.download(serve(b"hello"), tmp_path / "new")
    assert (tmp_path / "new").read_text() == "mine"


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_an_archive_is_unpacked_with_its_folders(pack, tmp_path):
    junk = ("__MACOSX/._a.tif", b"junk")
    (tmp_path / "archive").write_bytes(pack(("a.tif", b"1"), ("deep/er/b.tif", b"22"), junk))
    files = fetch.unpack(tmp_path / "archive", tmp_path / "new")
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
    refused_archive(packed, tmp_path, "more than is allowed", largest_bytes=1000)


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_too_many_files_are_refused(pack, tmp_path):
    many = pack(*((f"{n}", b"") for n in range(12)))
    refused_archive(many, tmp_path, "more than 10 files", most_files=10)


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_file_that_is_also_a_folder_is_refused(pack, tmp_path):
    refused_archive(pack(("a", b"1"), ("a/b", b"2")), tmp_path, "damaged")


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_damaged_archive_is_refused(pack, tmp_path):
    content = bytearray(pack(("a", np.random.default_rng(0).bytes(5000))))
    content[2000] ^= 255
    refused_archive(bytes(content), tmp_path, "damaged")
    refused_archive(bytes(content[:3000]), tmp_path, "damaged")


def test_other_files_are_no_archives(tmp_path):
    refused_archive(tiff_bytes(), tmp_path, "no zip")


def test_a_folder_that_exists_is_not_unpacked_into(tmp_path):
    (tmp_path / "archive").write_bytes(zip_of(("a", b"1")))
    with pytest.raises(UserError, match="exists"):
        fetch.unpack(tmp_path / "archive", tmp_path)
