"""Downloads against a local server; gdown's own requests to Drive are led there too."""

import hashlib
import io
from urllib.parse import urlparse

import numpy as np
import pytest
import requests
import tifffile

from wnet_nb.errors import UserError
from wnet_nb.files import download

DRIVE = "https://drive.google.com/file/d/1AbCdEfGhIjKlMnOpQrStUvWxYz012345/view?usp=sharing"
QUOTA = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>"
QUOTA += b'<p class="uc-error-subcaption">Too many users have viewed this file.</p></body></html>'


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    monkeypatch.setattr(download, "WAITS_SECONDS", (0, 0))


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


def everything_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def refused_download(source, tmp_path, words, **options):
    with pytest.raises(UserError, match=words) as caught:
        download.download(source, tmp_path / "new", **options)
    assert "\n" not in str(caught.value)
    assert everything_below(tmp_path) == []


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
    path = download.download(link, tmp_path / "a.tif", progress=lambda *done: seen.append(done))
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
    refused_download(link, tmp_path, "does not give|cannot be fetched")


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
    path = download.download(serve(tiff_bytes()), tmp_path / "new", kinds=("tiff",))
    assert tifffile.imread(path).shape == (3, 4, 5)


def test_a_hash_at_the_end_of_an_address_is_checked(serve, drive, tmp_path):
    right = "#sha256=" + hashlib.sha256(b"hello").hexdigest().upper()
    refused_download(serve(b"other") + right, tmp_path, "not the expected file")
    answer = {"Content_Disposition": "attachment", "Content_Type": "x/y"}
    refused_download(drive(b"other", **answer) + right, tmp_path, "not the expected file")
    download.download(drive(b"hello", **answer) + right, tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"hello"


def test_a_download_that_broke_off_is_refused(serve, tmp_path):
    refused_download(serve(b"hello", length=50), tmp_path, "cannot be fetched")


def test_another_kind_of_file_is_refused(serve, tmp_path):
    refused_download(serve(b"hello"), tmp_path, "something else than zip", kinds=("zip",))


def test_a_download_beyond_the_limit_is_refused(serve, drive, tmp_path):
    refused_download(serve(bytes(2000)), tmp_path, "more than 1000", largest_bytes=1000)
    link = drive(bytes(2000), Content_Disposition="attachment", Content_Type="x/y")
    refused_download(link, tmp_path, "more than 1000", largest_bytes=1000)


def test_a_file_that_exists_is_not_replaced(serve, tmp_path):
    (tmp_path / "new").write_text("mine")
    with pytest.raises(ValueError, match="never overwritten"):
        download.download(serve(b"hello"), tmp_path / "new")
    assert (tmp_path / "new").read_text() == "mine"
