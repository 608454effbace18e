"""How far the segmentation of a volume larger than memory is, chunk by chunk."""

from __future__ import annotations

import time
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from wnet_nb.widgets.panel import WIDE, Panel, message


class ChunkBar(Panel):
    """A bar for the chunks of the stage that runs; give it to `segment_large` as `observe`."""

    def __init__(self) -> None:
        self.bar = widgets.IntProgress(min=0, max=1, layout=WIDE)
        self.said, self.now = widgets.HTML(), widgets.HTML()
        self._notes: list[str] = []
        self._stage, self._first, self._began = "", 0, 0.0
        super().__init__([self.said, self.bar, self.now], words=lambda: self.now.value)
        display(self)

    def __call__(self, progress: Any) -> None:
        """Show a `ChunkProgress`."""
        if progress.note:
            self._notes.append(message(progress.note))
            self.said.value = "<br>".join(self._notes)
            return
        if progress.stage != self._stage:
            self._stage, self._first = progress.stage, progress.done
            self._began = time.monotonic()
        self.bar.max, self.bar.value = max(progress.total, 1), progress.done
        words = f"{progress.stage}: {progress.done} of {progress.total} chunks"
        if progress.done > self._first:
            seconds = (time.monotonic() - self._began) / (progress.done - self._first)
            words += f", {seconds * (progress.total - progress.done):.0f} s left of this stage"
        self.now.value = message(words)
