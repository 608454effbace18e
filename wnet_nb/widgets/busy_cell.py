"""Runs long work from a notebook cell that stays open to its buttons and sliders.

The cell is an ``await``, busy to the end, so later cells never see a half-trained model. One thread
computes, and touches no widget: on Colab, those set from a thread do not redraw. `Doorman` lets
buttons and sliders in meanwhile. The interrupt button is a wish to stop: the state is kept whole.
"""

import asyncio
import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from IPython import get_ipython

from wnet_nb.errors import UserError

POLL_SECONDS = 0.05
ADMITTED = (  # what widgets send, and what a browser tab asks that was opened again
    "comm_msg",
    "comm_open",
    "comm_close",
    "comm_info_request",
    "kernel_info_request",
)
WORKER = ThreadPoolExecutor(1, "wnet_nb")  # one of the kernel: torch's random numbers are shared
UNLIKE = (AttributeError, KeyError, TypeError, ValueError)  # of a kernel built in another way
Result = TypeVar("Result")


def in_thread(function: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
    """Begin a piece of work in the one thread that computes, after all that was begun before."""
    return asyncio.get_running_loop().run_in_executor(WORKER, function, *arguments)


async def attend(work: asyncio.Future[Result], interrupted: Callable[[], None]) -> Result:
    """Keep the cell busy until `work` is done, handle buttons and sliders, return its result.

    `interrupted` is called at the first interrupt of the kernel; a second one cancels `work` and
    raises `UserError`.
    """
    doorman = Doorman()
    try:
        with _interrupts() as presses:
            told = False
            while not work.done():
                await asyncio.wait([work], timeout=POLL_SECONDS)
                await doorman.admit()
                if presses and not told:
                    told = True
                    interrupted()
                if len(presses) > 1:
                    work.cancel()
                    raise UserError("Broken off after a second interrupt.")
    finally:
        doorman.release()
    return work.result()


class Doorman:
    """Lets widget messages into the kernel while one of its cells awaits.

    ipykernel 6 handles one message at a time and the running cell is one: messages of widgets are
    taken from its queue and handled; all others, such as the next cell of Run All, are put back
    when the cell ends. ipykernel 7.4 hands them to an awaiting cell by itself but does not say when
    it is done, and a slider waits for that before it sends its next value: this says so. Both need
    names that the kernel does not promise; with a kernel that lacks them, nothing is done here, and
    buttons act when that kernel lets them.
    """

    def __init__(self) -> None:
        self._kernel = getattr(get_ipython(), "kernel", None)
        self._queue = getattr(self._kernel, "msg_queue", None)  # gone in ipykernel 7
        self._kept: list[Any] = []
        self._answered = None
        if self._queue is not None:
            return
        try:
            self._cell = self._kernel.get_parent("shell")
            self._answered = self._kernel.shell_handlers["comm_msg"]
            self._kernel.shell_handlers["comm_msg"] = self._answer
        except UNLIKE:
            self._answered = None

    async def _answer(self, stream: Any, ident: Any, received: dict[str, Any]) -> None:
        try:
            result = self._answered(stream, ident, received)
            if inspect.isawaitable(result):
                await result
        finally:
            self._say("idle", parent=received)
            self._say("busy", parent=self._cell)

    def _say(self, state: str, **parent: Any) -> None:
        publish = getattr(self._kernel, "_publish_status", None)
        if publish is not None:
            publish(state, "shell", **parent)

    async def admit(self) -> None:
        """Handle the messages of widgets and reopened tabs that have come."""
        kernel = self._kernel
        while self._queue is not None and self._queue.qsize():
            item = self._queue.get_nowait()
            try:
                *_, dispatch, arguments = item
                may_enter = self._kind(arguments[0]) in ADMITTED
                parent, ident = kernel.get_parent("shell"), kernel._parent_ident["shell"]
                handler = kernel.saved_sigint_handler
            except UNLIKE:
                may_enter = False
            if not may_enter:
                self._kept.append(item)
                continue
            try:
                await dispatch(*arguments)
            finally:
                kernel.set_parent(ident, parent, channel="shell")
                kernel.saved_sigint_handler = handler
                self._say("busy")  # the cell still runs

    def release(self) -> None:
        """Put the other messages back, in their order, and leave the kernel as it was."""
        if self._answered is not None:
            self._kernel.shell_handlers["comm_msg"] = self._answered
        for item in self._kept:
            self._queue.put_nowait(item)
        self._kept = []

    def _kind(self, received: Any) -> str:
        session = self._kernel.session
        _, frames = session.feed_identities(received, copy=False)
        return session.unpack(frames[1].bytes).get("msg_type")


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Note the kernel's interrupts in a list, in place of breaking into what is running."""
    presses: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # no notebook
        yield presses
        return
    before = signal.signal(signal.SIGINT, lambda number, _: presses.append(number))
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, before)
