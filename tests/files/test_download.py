"""Downloads against a local server; gdown's own requests to Drive are led there too."""

import hashlib
import http.server
import io
import shutil
import ssl
import subprocess
import tarfile
import threading
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
def _no_waits_and_small_pieces(monkeypatch):
    monkeypatch.setattr(download, "WAITS_SECONDS", (0, 0))
    monkeypatch.setattr(download, "CHUNK", 100)


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


@pytest.mark.parametrize("path", ["drive/folders/1AbCdEfGhIjKlMnOpQrStUvWxYz012345", "drive/home"])
def test_a_link_to_no_file_on_drive_says_what_to_do(tmp_path, path):
    refused_download(f"https://drive.google.com/{path}", tmp_path, "zip of the folder")


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


@pytest.fixture
def flaky():
    """Return a function that starts a server which answers each request in turn as it is told.

    An answer is (status, headers, body, how much of the body is sent); what was asked for is kept.
    """
    answers, asked = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
            status, headers, body, sent = answers.pop(0)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[:sent])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()

    def start(*script):
        answers[:] = script
        return f"http://127.0.0.1:{server.server_port}/file"

    start.asked = asked
    yield start
    server.shutdown()
    thread.join()
    server.server_close()


BODY = bytes(range(1, 256)) * 9


def test_what_broke_off_goes_on_where_it_broke_off(flaky, tmp_path):
    version = {"ETag": '"one"'}
    rest = (206, version, BODY[900:], None)
    path = download.download(flaky((200, version, BODY, 900), rest), tmp_path / "new")
    assert path.read_bytes() == BODY
    assert flaky.asked == [("/file", None, None), ("/file", "bytes=900-", '"one"')]
    assert everything_below(tmp_path) == ["new"]


def test_another_version_is_fetched_from_its_beginning(flaky, tmp_path):
    other = BODY[::-1]
    link = flaky((200, {"ETag": '"one"'}, BODY, 900), (200, {"ETag": '"two"'}, other, None))
    assert download.download(link, tmp_path / "new").read_bytes() == other


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"alike"'}])
def test_without_a_version_nothing_is_put_together(flaky, tmp_path, headers):
    link = flaky((200, headers, BODY, 900), (200, headers, BODY, None))
    assert download.download(link, tmp_path / "new").read_bytes() == BODY
    assert [wanted for _, wanted, _ in flaky.asked] == [None, None]


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(flaky, tmp_path):
    link = flaky((503, {}, b"busy", None), (500, {}, b"busy", None), (200, {}, BODY, None))
    assert download.download(link, tmp_path / "new").read_bytes() == BODY
    (tmp_path / "new").unlink()
    flaky.asked.clear()
    refused_download(flaky((403, {}, b"no", None)), tmp_path, "403")
    assert len(flaky.asked) == 1


def test_what_breaks_off_three_times_leaves_nothing(flaky, tmp_path):
    version = {"ETag": '"one"'}
    first, rest = (200, version, BODY, 900), (206, version, BODY[900:], 0)
    refused_download(flaky(first, rest, rest), tmp_path, "cannot be fetched")
    assert len(flaky.asked) == 3


def test_an_address_that_leads_on_to_plain_http_is_refused(flaky, tmp_path):
    link = flaky((302, {"Location": "http://example.org/other"}, b"", None))
    refused_download(link, tmp_path, "'http://example.org/other' is neither an https address")


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/a",
        "http://127.0.0.1.example.org/a",
        "http://127.0.0.1:80@example.org/a",
        "ftp://x/a",
        "file:///a",
    ],
)
def test_only_https_is_taken_from_other_computers(tmp_path, address):
    refused_download(address, tmp_path, "neither an https address")


@pytest.mark.skipif(not shutil.which("openssl"), reason="nothing makes a certificate here")
def test_a_server_that_cannot_prove_its_name_is_refused(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    command += f" -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {key}"
    subprocess.run([*command.split(), "-out", certificate], capture_output=True, check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # the client leaves in the middle of the greeting
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        with pytest.raises(UserError, match="certificate"):
            download.download(f"https://localhost:{server.server_port}/a", tmp_path / "new" / "a")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert everything_below(tmp_path) == ["certificate.pem", "key.pem", "new"]


def test_a_tar_is_known_from_its_first_block_even_if_it_comes_in_small_pieces(flaky, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    body = buffer.getvalue()
    chunked = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    pieces = b"".join(b"64\r\n" + body[n : n + 100] + b"\r\n" for n in range(0, 10200, 100))
    link = flaky((200, chunked, pieces + b"0\r\n\r\n", None))
    path = download.download(link, tmp_path / "new", kinds=("tar",))
    assert path.read_bytes() == body[:10200]
