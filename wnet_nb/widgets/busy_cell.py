"""Runs long work from a notebook cell that stays open to its buttons and sliders.

The mechanism, and why. The cell is an ``await``: it stays busy to the end, so Run All needs nobody
and later cells never see a half-trained model. The computing goes on in one thread, because a
single step of a large network can take half a minute; that thread touches no widget. What it brings
comes back to the kernel's own event loop, where it is drawn: widgets set from there redraw
everywhere, also where those set from a thread do not (Colab). While the cell waits, button presses,
slider moves and what a reopened tab asks are handled by `Doorman`: ipykernel 7.4 lets them through
to an awaiting cell, and for ipykernel 6 it takes them out of the kernel's queue. The kernel's
interrupt button is a wish to stop, as the Stop button is, so that the state kept is whole.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import signal
import threading
from collections.abc import Callable, Iterator
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
Result = TypeVar("Result")


class StopInPlace(RuntimeError):
    """Work cannot go on; shown as one sentence, and Run All stops at this cell."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def explain(error: BaseException) -> str | None:
    """Return an error that a user can do something about as one sentence, None for any other."""
    if isinstance(error, RuntimeError) and re.search("out of memory|allocate", str(error)):
        return "The memory is full; lower batch_size, patch_size or tile_size."
    if isinstance(error, MemoryError):
        return "The memory is full; lower batch_size, patch_size or tile_size."
    known = isinstance(error, ValueError | UserError | OSError | StopInPlace)
    return str(error) if known else None


async def attend(work: asyncio.Future[Result], interrupted: Callable[[], None]) -> Result:
    """Keep the cell busy until `work` is done, and handle buttons and sliders meanwhile.

    Parameters
    ----------
    work : Future
        A task of the kernel's event loop.
    interrupted : callable
        Called at the first interrupt of the kernel; a second one breaks off at once.

    Returns
    -------
    object
        The result of `work`.
    """
    doorman = Doorman()
    try:
        with _interrupt_as(interrupted):
            while not work.done():
                await asyncio.wait([work], timeout=POLL_SECONDS)
                await doorman.admit()
    finally:
        doorman.release()
    return work.result()


class Doorman:
    """Lets widget messages into the kernel while one of its cells awaits.

    ipykernel 6 handles one message at a time and the running cell is one: messages of widgets are
    taken from its queue and handled; all others, such as the next cell of Run All, are put back
    when the cell ends. ipykernel 7.4 hands them to an awaiting cell by itself but does not say when
    it is done, and a slider waits for that before it sends its next value: this says so.
    """

    def __init__(self) -> None:
        self._kernel = getattr(get_ipython(), "kernel", None)
        self._queue = getattr(self._kernel, "msg_queue", None)  # gone in ipykernel 7
        self._kept: list[Any] = []
        self._answered = None
        if self._kernel is not None and self._queue is None:
            self._answered = self._kernel.shell_handlers["comm_msg"]
            self._cell = self._kernel.get_parent("shell")
            self._kernel.shell_handlers["comm_msg"] = self._answer

    async def _answer(self, stream: Any, ident: Any, received: dict[str, Any]) -> None:
        try:
            result = self._answered(stream, ident, received)
            if inspect.isawaitable(result):
                await result
        finally:
            self._kernel._publish_status("idle", "shell", parent=received)
            self._kernel._publish_status("busy", "shell", parent=self._cell)

    async def admit(self) -> None:
        """Handle the messages of widgets and reopened tabs that have come."""
        while self._queue is not None and self._queue.qsize():
            item = self._queue.get_nowait()
            *_, dispatch, arguments = item
            if not self._may_enter(arguments):
                self._kept.append(item)
                continue
            kernel = self._kernel
            parent, ident = kernel.get_parent("shell"), kernel._parent_ident["shell"]
            handler = kernel.saved_sigint_handler
            try:
                await dispatch(*arguments)
            finally:
                kernel.set_parent(ident, parent, channel="shell")
                kernel.saved_sigint_handler = handler
                kernel._publish_status("busy", "shell")  # the cell still runs

    def release(self) -> None:
        """Put the other messages back, in their order, and leave the kernel as it was."""
        if self._answered is not None:
            self._kernel.shell_handlers["comm_msg"] = self._answered
        for item in self._kept:
            self._queue.put_nowait(item)
        self._kept = []

    def _may_enter(self, arguments: tuple[Any, ...]) -> bool:
        try:
            session = self._kernel.session
            _, frames = session.feed_identities(arguments[0], copy=False)
            header = session.unpack(frames[1].bytes)
        except (IndexError, TypeError, ValueError, AttributeError):
            return False
        return header.get("msg_type") in ADMITTED


@contextmanager
def _interrupt_as(wish: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wishes: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if wishes:
            raise KeyboardInterrupt
        wishes.append(number)
        wish()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
