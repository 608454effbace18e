"""How far the segmentation of a volume larger than memory is, chunk by chunk."""

from typing import Any

from tqdm.auto import tqdm


class ChunkBar:
    """A bar for the chunks of each stage; give it to `segment_large` as `observe`."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __call__(self, progress: Any) -> None:
        """Show a `ChunkProgress`."""
        if progress.note:
            print(progress.note)
            return
        if self.bar is None or self.bar.desc != progress.stage:
            facts = {"total": progress.total, "initial": progress.done, "unit": " chunks"}
            self.bar = tqdm(desc=progress.stage, **facts)
        self.bar.update(progress.done - self.bar.n)
        if progress.done == progress.total:
            self.bar.close()
