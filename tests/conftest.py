"""For all tests: a fixed seed, two threads, the files of ../shared, a small disk, a web server."""

import contextlib
import http.server
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch

with contextlib.suppress(ImportError):  # the tests with Colab's packages have none
    import hypothesis

    hypothesis.settings.register_profile("no_clock", deadline=None)  # machines may be busy
    hypothesis.settings.load_profile("no_clock")


@pytest.fixture(autouse=True)
def _same_conditions():
    torch.set_num_threads(2)
    torch.manual_seed(0)


@pytest.fixture
def shared():
    def path_of(name):
        path = Path(__file__).resolve().parents[2] / "shared" / name
        if not path.exists():
            miss = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            miss(f"the reference file ../shared/{name} is not here")
        return path

    return path_of


@pytest.fixture
def small_disk(tmp_path):
    """Give a folder on a file system of 16 MB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only an administrator may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def serve():
    """Return a function that serves bytes and gives their address; notes what was asked for."""
    answer = {}
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(answer["length"] or len(answer["body"])))
            for name, value in answer["headers"].items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()

    def start(body, *, status=200, length=None, name="wnet_latest.tar.gz", **headers):
        headers = {key.replace("_", "-"): value for key, value in headers.items()}
        answer.update(body=body, status=status, length=length, headers=headers)
        return f"http://127.0.0.1:{server.server_port}/{name}"

    start.asked = asked
    yield start
    server.shutdown()
    thread.join()
    server.server_close()
