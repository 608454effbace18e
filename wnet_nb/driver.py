"""Runs long work from a notebook cell that stays open to its buttons and sliders.

The mechanism, and why. The cell is an ``await``: it stays busy to the end, so later cells never see
a half-trained model and Run All needs nobody. The work itself goes on in one thread, because a
single step of a large network can take half a minute; that thread touches no widget. Events come
back to the cell's own task, which draws them: widgets that are set from the running cell redraw
everywhere, also where those set from a thread do not (Colab). While the task waits, button presses
and slider moves are handled: JupyterLab sends them to a subshell of ipykernel 7, ipykernel 7.4 lets
them through to an awaiting cell, and for ipykernel 6 `Doorman` takes them out of the kernel's queue.
The interrupt button is a wish to stop, like the Stop button, so that the state kept is whole.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from IPython import get_ipython

POLL_SECONDS = 0.05
Result = TypeVar("Result")


class StopInPlace(RuntimeError):
    """Work cannot go on; shown as one sentence, and Run All stops at this cell."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Worker:
    """One thread for long work, awaited by a cell without closing the cell's ears.

    Examples
    --------
    >>> async def three():
    ...     with Worker() as worker:
    ...         return await worker.call(sum, (1, 2))
    >>> asyncio.run(three())
    3
    """

    def __enter__(self) -> Worker:
        """Start the thread."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="wnet_nb")
        self._doorman = Doorman()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the thread to end, and let the kernel's other messages through."""
        self._pool.shutdown()
        self._doorman.release()

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return ``function(*arguments)``, computed in the thread."""
        future: Future[Result] = self._pool.submit(function, *arguments)
        waiting = asyncio.wrap_future(future)
        while not future.done():
            await asyncio.wait([waiting], timeout=POLL_SECONDS)
            await self._doorman.admit()
        return await waiting

    async def iterate(self, items: Iterator[Result]) -> AsyncIterator[Result]:
        """Yield the items of an iterator whose every ``next`` runs in the thread."""
        end = object()
        while (item := await self.call(next, items, end)) is not end:
            yield item

    async def rest(self) -> None:
        """Wait a moment, handling buttons and sliders."""
        await asyncio.sleep(POLL_SECONDS)
        await self._doorman.admit()


class Doorman:
    """Lets widget messages into a kernel of ipykernel 6 while one of its cells awaits.

    That kernel handles one message at a time and the running cell is one. Messages of widgets are
    taken from its queue and handled; all others, such as the next cell of Run All, are put back
    when the cell ends. Elsewhere it does nothing.
    """

    def __init__(self) -> None:
        self._kernel = getattr(get_ipython(), "kernel", None)
        self._queue = getattr(self._kernel, "msg_queue", None)  # gone in ipykernel 7
        self._kept: list[Any] = []

    async def admit(self) -> None:
        """Handle the widget messages that have come."""
        while self._queue is not None and self._queue.qsize():
            item = self._queue.get_nowait()
            *_, dispatch, arguments = item
            if not self._is_of_widget(arguments):
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
        """Put the other messages back, in their order."""
        for item in self._kept:
            self._queue.put_nowait(item)
        self._kept = []

    def _is_of_widget(self, arguments: tuple[Any, ...]) -> bool:
        try:
            _, frames = self._kernel.session.feed_identities(arguments[0], copy=False)
            header = self._kernel.session.unpack(frames[1].bytes)
        except (IndexError, TypeError, ValueError, AttributeError):
            return False
        return header.get("msg_type") in ("comm_msg", "comm_open", "comm_close")


@contextmanager
def interrupt_as(wish: Callable[[], None]) -> Iterator[None]:
    """Call `wish` when the kernel is interrupted; a second interrupt breaks off at once."""
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
