"""The server that `bash colab_setup.sh lab` starts: for this computer alone, with its token."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "WNet3D_local.ipynb"


@pytest.fixture
def server(tmp_path):
    """The process of a server, and the address with the token that it prints."""
    shutil.copy(NOTEBOOK, tmp_path)
    # As in colab_setup.sh; root is a matter of the test machine alone.
    command = [sys.executable, "-P", "-m", "jupyterlab", NOTEBOOK.name]
    command += ["--no-browser", "--allow-root"]
    environment = os.environ | {"HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)}
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=output, stderr=output
        )
    try:
        for _ in range(240):
            found = re.search(r"http://127\.0\.0\.1:\d+/lab\S*token=\w+", log.read_text())
            if found:
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.25)
        yield process, found[0]
    finally:
        process.terminate()
        process.wait(30)


def test_the_server_listens_on_this_computer_alone_and_wants_its_token(server):
    process, address = server
    listening = [
        connection.laddr.ip
        for connection in psutil.Process(process.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening and set(listening) <= {"127.0.0.1", "::1"}
    base, token = address.split("/lab")[0], address.split("token=")[1]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{base}/api/contents", timeout=10)
    refused.value.close()
    assert refused.value.code == 403
    with urllib.request.urlopen(f"{base}/api/contents?token={token}", timeout=10) as answer:
        assert NOTEBOOK.name in answer.read().decode()
