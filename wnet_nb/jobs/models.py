"""Networks by name, a run, a weights file or one of three words, and the cells they lead to.

Without a network, the word `none`, a threshold takes its place and the steps are the same.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from skimage.filters import threshold_otsu

from wnet_nb import checkpoint
from wnet_nb.cells.outlines import Instances, segment_instances
from wnet_nb.cells.size import CellSize, median_radius_um
from wnet_nb.checkpoint import STARTER, STARTER_FILE, Checkpoint
from wnet_nb.config import Settings, preset
from wnet_nb.data import Prepared, voxels_averaged
from wnet_nb.device import choose_device
from wnet_nb.errors import UserError
from wnet_nb.files.published import PUBLISHED, fetch_published
from wnet_nb.grid import enlarge
from wnet_nb.inference import Moments, predict_probabilities
from wnet_nb.jobs.stacks import Stack

NONE = "none"
NONE_PRESET = "scratch"  # how a volume is prepared where there is no network
LEAST_CELLS = 5  # that tell how large cells are
FUSED = 1.2  # times smaller than the radius they were looked for with: then that fuses cells
Report = Callable[[int, int], None]  # takes what is done and how much there is


def is_word(source: str | Path) -> bool:
    """Return whether a model is named by a word, and no file or folder of that name is there."""
    return str(source) in (STARTER, PUBLISHED, NONE) and not Path(source).exists()


def find_weights(source: str | Path, *, progress: Report | None = None) -> Path:
    """Return the weights file that ``starter`` or ``published`` stands for; any path as it is."""
    if not is_word(source):
        return Path(source)
    if str(source) == PUBLISHED:
        return fetch_published(progress=progress)
    if str(source) == STARTER:
        return STARTER_FILE
    raise UserError("the word none stands for no network, so there are no weights to start from")


def with_weights(settings: Settings) -> Settings:
    """Return settings that start from a file, where they start from what a word stands for."""
    if settings.start_from is None:
        return settings
    return settings.replace(start_from=str(find_weights(settings.start_from)))


def no_network() -> Checkpoint:
    """Return what the word ``none`` stands for."""
    return Checkpoint(None, preset(NONE_PRESET), source=Path(NONE))


def load_model(source: str | Path | Checkpoint, *, progress: Report | None = None) -> Checkpoint:
    """Return a model that is ready to segment, from a run folder, a weights file, or a word.

    The words are ``starter`` (the weights in the package), ``published`` (CellSeg3D's, fetched
    once; `progress` is called with bytes received and bytes in all) and ``none`` (no network:
    `model` is None, and the image alone decides, prepared as for the small networks).
    """
    if isinstance(source, Checkpoint):
        return source
    word = is_word(source)
    if word and str(source) == NONE:
        return no_network()
    model = checkpoint.load_checkpoint(find_weights(source, progress=progress))
    device = choose_device()
    # Channels last is a quarter quicker on a CPU, and alike to the sixth digit.
    layout = torch.channels_last_3d if device == "cpu" else torch.preserve_format
    model.model.to(device, memory_format=layout)
    return replace(model, source=Path(source)) if word else model  # a word holds on any computer


def predict_classes(
    prepared: Prepared,
    model: Checkpoint,
    settings: Settings,
    *,
    of_whole: Moments | float | None = None,
    out: Path | None = None,
    progress: Report | None = None,
) -> np.ndarray:
    """Return class probabilities (K, Z, Y, X) float32, of a network also in a new file `out`.

    Without a network, the one class is what is brighter than Otsu's threshold. `of_whole` are the
    network's moments, or that threshold, where the volume is a part of a larger one.
    """
    if model.model is not None:
        return predict_probabilities(
            model.model,
            prepared,
            tile_size=settings.tile_size,
            flips=settings.flips,
            precision=settings.precision,
            moments=of_whole,
            out=out,
            progress=progress,
        )
    brightness = prepared.normalisation.apply(prepared.array)
    threshold = threshold_otsu(brightness) if of_whole is None else of_whole
    bright = (brightness > threshold).astype(np.float32)
    return enlarge(bright, prepared.shape, prepared.factors)[np.newaxis]


def for_cells(settings: Settings, radius_um: float | CellSize | None) -> Settings:
    """Return settings whose `cell_radius_um`, which decides the preparation, is another."""
    radius = radius_um.radius_um if isinstance(radius_um, CellSize) else radius_um
    return settings.replace(cell_radius_um=radius)


def size_to_look_again(
    cells: Instances, stack: Stack, model: Checkpoint, settings: Settings
) -> CellSize | None:
    """Return the size that a network's cells have, if it should look again with it.

    The radius that the image shows may be a third off, and decides how many voxels are averaged
    before the network looks. Its first answer shows what whole cells measure: it looks again where
    that asks for another averaging, or is so small that cells were fused.
    """
    if model.model is None or settings.core_class is None or settings.cell_radius_um:
        return None
    if cells.count < LEAST_CELLS:
        return None
    voxel_um = np.array(stack.voxel_size_um)
    radius = median_radius_um(cells.labels, stack.voxel_size_um)
    before, after = (
        voxels_averaged(settings, r / voxel_um) for r in (cells.cell_size.radius_um, radius)
    )
    if before == after and cells.cell_size.radius_um < FUSED * radius:
        return None
    reason = f"of the {cells.count} cells that the network found at first"
    return CellSize(radius, tuple((radius / voxel_um).tolist()), cells.count, 0.0, reason)


def find_cells(
    probabilities: np.ndarray,
    image: np.ndarray,
    stack: Stack,
    model: Checkpoint,
    settings: Settings,
    *,
    cell_radius_um: float | CellSize | None,
) -> Instances:
    """Return the cells in an image (Z, Y, X), which is a stack or a part of it.

    `settings` are those of the network also where `model` stands for the same steps without it.
    """
    classes, core, boundary = settings.foreground_classes, settings.core_class, settings.boundary
    if model.model is None:
        # Of a network that knows the core, the boundary is a probability and no brightness.
        classes, core, boundary = (0,), None, boundary if core is None else None
    cells = segment_instances(
        probabilities,
        image,
        voxel_size_um=stack.voxel_size_um,
        cell_radius_um=cell_radius_um,
        foreground_classes=classes,
        core_class=core,
        boundary=boundary,
        minimum_size=settings.minimum_size,
        minimum_contrast=settings.minimum_contrast,
    )
    if model.model is not None:
        return cells
    return replace(cells, reason="what is brighter than Otsu's threshold of the prepared image")
