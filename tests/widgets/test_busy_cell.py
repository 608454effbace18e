"""A busy cell stays open: the driver in a real kernel, spoken to as a notebook's page does."""

import contextlib
import os
import queue
import sys
import time
from pathlib import Path

import ipykernel
import pytest
from jupyter_client import KernelManager

ROOT = Path(__file__).resolve().parents[2]
SET_UP = """
import asyncio
import ipywidgets as widgets
from wnet_nb.errors import UserError
from wnet_nb.widgets.busy_cell import attend

button, slider, seen = widgets.Button(), widgets.IntSlider(), []
button.on_click(lambda _: seen.append("pressed"))
slider.observe(lambda change: seen.append(change["new"]), "value")

async def work(wanted, seconds=20):
    for _ in range(int(seconds / 0.02)):
        if len(seen) >= wanted:
            break
        await asyncio.sleep(0.02)
    return seen

print(button.model_id, slider.model_id)
"""
ATTEND = "print(await attend(asyncio.ensure_future(work({})), lambda: seen.append('interrupt')))"


@pytest.fixture(scope="module")
def kernel():
    """Return a client of a kernel in which the widgets of SET_UP are."""
    manager = KernelManager()
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    manager.start_kernel(env=os.environ | {"PYTHONPATH": paths}, cwd=str(ROOT))
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        button, slider = run(client, SET_UP).split()
        yield Kernel(manager, client, button, slider)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


class Kernel:
    def __init__(self, manager, client, button, slider):
        self.manager, self.client = manager, client
        self.button, self.slider = button, slider

    def send(self, kind, *, subshell=None, **content):
        message = self.client.session.msg(kind, content)
        if subshell:
            message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)
        return message["header"]["msg_id"]

    def subshell(self):
        """Return a second line to the kernel, which JupyterLab takes where there is one."""
        if int(ipykernel.__version__.split(".")[0]) < 7:
            return None
        self.client.control_channel.send(self.client.session.msg("create_subshell_request", {}))
        return self.client.get_control_msg(timeout=20)["content"]["subshell_id"]

    def press(self):
        data = {"method": "custom", "content": {"event": "click"}}
        return self.send("comm_msg", comm_id=self.button, data=data)

    def slide(self, value):
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        return self.send("comm_msg", comm_id=self.slider, data=data)


def start(client, source):
    """Begin to run a cell, and return when it is busy."""
    asked = client.execute(source)
    wait_for(client, asked, lambda m: m["msg_type"] == "execute_input")
    return asked


def run(client, source):
    return finish(client, client.execute(source))


def finish(client, asked):
    """Return what a cell printed, when it has ended."""
    printed, ended = [], False
    while not ended:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != asked:
            continue
        content = message["content"]
        assert message["msg_type"] != "error", content
        printed += [content["text"]] if message["msg_type"] == "stream" else []
        # While it runs, the state of the kernel may say idle for a message in between.
        ended = content.get("execution_state") == "idle" and replied(client, asked)
    return "".join(printed)


def replied(client, asked):
    with contextlib.suppress(queue.Empty):
        while True:
            if client.get_shell_msg(timeout=0.5)["parent_header"].get("msg_id") == asked:
                return True
    return False


def wait_for(client, asked, true, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        message = client.get_iopub_msg(timeout=seconds)
        if message["parent_header"].get("msg_id") == asked and true(message):
            return message
    raise AssertionError("waited in vain")


def test_buttons_and_sliders_act_while_the_cell_is_busy(kernel):
    asked = start(kernel.client, "seen.clear()\n" + ATTEND.format(3))
    kernel.press()
    kernel.slide(7)
    kernel.press()
    assert finish(kernel.client, asked) == "['pressed', 7, 'pressed']\n"


def test_each_widget_message_is_told_to_be_done_so_that_a_slider_sends_its_next(kernel):
    asked = start(kernel.client, "seen.clear()\n" + ATTEND.format(2))
    idle = lambda m: m["content"].get("execution_state") == "idle"  # noqa: E731
    wait_for(kernel.client, kernel.slide(3), idle)
    kernel.slide(4)
    assert finish(kernel.client, asked) == "[3, 4]\n"


def test_a_page_that_was_opened_again_is_answered_while_the_cell_is_busy(kernel):
    asked = start(kernel.client, "seen.clear()\n" + ATTEND.format(1))
    subshell = kernel.subshell()
    question = kernel.send("comm_info_request", subshell=subshell, target_name="jupyter.widget")
    answer = kernel.client.get_shell_msg(timeout=10)
    assert answer["parent_header"]["msg_id"] == question
    assert kernel.button in answer["content"]["comms"]
    kernel.press()
    finish(kernel.client, asked)


def test_the_next_cells_wait_for_the_end_and_keep_their_order(kernel):
    start(kernel.client, "seen.clear()\n" + ATTEND.format(1))
    later = [kernel.client.execute(f"seen.append({n}); print(seen)") for n in (1, 2)]
    time.sleep(0.5)
    kernel.press()
    assert finish(kernel.client, later[1]) == "['pressed', 1, 2]\n"


@pytest.mark.skipif(sys.platform == "win32", reason="an interrupt is no signal there")
def test_the_interrupt_button_is_a_wish_and_the_cell_ends_well(kernel):
    asked = start(kernel.client, "seen.clear()\n" + ATTEND.format(1))
    time.sleep(0.5)  # from here on `attend` waits
    kernel.manager.interrupt_kernel()
    assert finish(kernel.client, asked) == "['interrupt']\n"


@pytest.mark.skipif(sys.platform == "win32", reason="an interrupt is no signal there")
def test_a_second_interrupt_ends_the_cell_and_the_work(kernel):
    run(kernel.client, "task = asyncio.ensure_future(work(9)); seen.clear()")
    asked = start(kernel.client, "await attend(task, lambda: seen.append('interrupt'))")
    for _ in range(2):
        time.sleep(0.5)
        kernel.manager.interrupt_kernel()
    message = wait_for(kernel.client, asked, lambda m: m["msg_type"] == "error")
    assert message["content"]["traceback"] == ["Broken off after a second interrupt."]
    time.sleep(0.5)  # a cell that is sent at once would be dropped for the error before it
    assert run(kernel.client, "print(seen, task.cancelled())") == "['interrupt'] True\n"


@pytest.mark.parametrize("names", ["", "msg_queue=asyncio.Queue()", "shell_handlers={}"])
def test_work_runs_with_a_kernel_whose_private_names_differ(kernel, names):
    source = f"""
    from types import SimpleNamespace
    from wnet_nb.widgets import busy_cell

    before, busy_cell.get_ipython = busy_cell.get_ipython, lambda: SimpleNamespace(kernel=other)
    other = SimpleNamespace({names})
    if hasattr(other, "msg_queue"):
        other.msg_queue.put_nowait("in another form")
    try:
        print(await attend(asyncio.ensure_future(work(0)), print))
    finally:
        busy_cell.get_ipython = before
    """
    run(kernel.client, "seen.clear()")
    assert run(kernel.client, source) == "[]\n"


def test_an_error_that_the_user_can_mend_is_one_sentence(kernel):
    asked = kernel.client.execute("raise UserError('There are no volumes yet.')")
    message = wait_for(kernel.client, asked, lambda m: m["msg_type"] == "error")
    assert message["content"]["traceback"] == ["There are no volumes yet."]
