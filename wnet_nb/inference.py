"""A volume of any size to class probabilities, in overlapping tiles blended smoothly."""

import contextlib
import gc
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wnet_nb.config import DEFAULTS, DEPTH_FACTOR, Settings
from wnet_nb.data import Normalisation, Prepared, fit_normalisation
from wnet_nb.device import choose_dtype, is_out_of_memory
from wnet_nb.grid import enlarge
from wnet_nb.whole_file import new_file

OVERLAP = 24  # voxels shared by neighbouring tiles, at most half of a tile
MARGIN = 6  # outermost voxels of a tile that do not count where a neighbour covers them
SMALLEST_TILE = 32  # when memory runs out; the blocks for the statistics are no smaller
SAMPLE_SIZE, SAMPLES_PER_AXIS = 32, 3  # 27 blocks for the statistics: the work of one 96³ tile

Progress = Callable[[int, int], None]
Moments = dict[str, Tensor]  # name of a group norm to (2, groups): mean, and mean of the squares


def predict_probabilities(
    model: nn.Module,
    image: np.ndarray | Prepared,
    *,
    normalisation: Normalisation | str = DEFAULTS["normalisation"],
    tile_size: int = DEFAULTS["tile_size"],
    flips: bool = DEFAULTS["flips"],
    precision: str = "float32",
    moments: Moments | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return the class probabilities of a volume on the grid of its image.

    All tiles share the group-norm statistics of the volume, taken from blocks as large as training
    patches are: with its own for each tile, a tile size of 32 instead of 96 moved the probabilities
    by 0.028 on average, with common ones by 0.0001 (example volume).

    Parameters
    ----------
    model : WNet3D
        Or any module whose ``encode`` maps (1, 1, Z, Y, X) in 0-100 to (1, K, Z, Y, X); it is
        used in evaluation mode and left in the mode it came in.
    image : ndarray or Prepared
        (Z, Y, X), any real dtype; may be a memory map. Give it prepared (`data.prepare`) where
        the network expects more than a range of brightness as 0-100.
    normalisation : Normalisation or str
        That range, or the method by which to find it in an array, once for the whole volume.
    tile_size : int
        Edge of a tile in voxels, a multiple of 8 (else ValueError). Memory grows with it, not with
        the volume; where it runs out, smaller tiles are taken, and a warning says so.
    flips : bool
        Average over the eight mirror images of each tile.
    precision : str
        Number format, see `device.choose_dtype`; bfloat16 moves probabilities by up to 0.03.
    moments : dict, optional
        Group-norm statistics where the image is a part of a larger volume (`measure_moments`).
    out : Path, optional
        A new ``.npy`` file to write to, tile by tile, instead of memory; UserError if it exists.
    progress : callable, optional
        Called with (tiles done, tiles in all).

    Returns
    -------
    ndarray
        (K, Z, Y, X) float32 in 0-1; a read-only memory map if `out` is given.
    """
    if tile_size < DEPTH_FACTOR or tile_size % DEPTH_FACTOR:
        raise ValueError(f"tile_size={tile_size} must be a multiple of {DEPTH_FACTOR}")
    if not isinstance(image, Prepared):
        if isinstance(normalisation, str):
            normalisation = fit_normalisation(image, normalisation)
        image = Prepared(image, normalisation, shape=image.shape)
    with (
        contextlib.nullcontext() if out is None else new_file(out) as part,
        _evaluating(model, precision),
    ):
        if image.factors == (1, 1, 1):
            result = _predict(model, image, tile_size, flips, moments, part, progress)
        else:
            result = _predict(model, image, tile_size, flips, moments, None, progress)
            result = _on_the_image(result, image, part)
        if part is None:
            return result
        del result  # before its file is renamed, which Windows would refuse
    return np.load(out, mmap_mode="r")


@contextlib.contextmanager
def _evaluating(model: nn.Module, precision: str) -> Iterator[None]:
    device, was = _device(model), model.training
    dtype = choose_dtype(precision, device)
    model.eval()
    try:
        with torch.autocast(device.type, dtype, dtype != torch.float32):
            yield
    finally:
        model.train(was)


def mean_dice(
    model: nn.Module, pairs: Sequence[tuple[Prepared, np.ndarray]], settings: Settings
) -> float:
    """Return the mean over prepared volumes and their labels of `best_class_dice`."""
    options = {"tile_size": settings.tile_size, "precision": settings.precision}
    scores = [best_class_dice(predict_probabilities(model, p, **options), t) for p, t in pairs]
    return float(np.mean(scores))


def best_class_dice(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Return the Dice of the class whose argmax map fits the truth best: classes have no order.

    `probabilities` is (K, Z, Y, X), `truth` (Z, Y, X): everything above 0 is a cell.
    """
    winner, cells = probabilities.argmax(0), truth > 0
    masks = [winner == k for k in range(len(probabilities))]
    return max(2 * (mask & cells).sum() / max(1, mask.sum() + cells.sum()) for mask in masks)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters(), torch.empty(0)).device


def _zeros(shape: tuple[int, ...], path: Path | None) -> np.ndarray:
    if path is None:
        return np.zeros(shape, np.float32)
    return np.lib.format.open_memmap(path, "w+", np.float32, shape)


def _on_the_image(coarse: np.ndarray, volume: Prepared, path: Path | None) -> np.ndarray:
    result = _zeros((len(coarse), *volume.shape), path)
    for full, probabilities in zip(result, coarse, strict=True):
        full[:] = enlarge(probabilities, volume.shape, volume.factors)
    return result


def _predict(
    model: nn.Module,
    volume: Prepared,
    tile_size: int,
    flips: bool,
    moments: Moments | None,
    path: Path | None,
    progress: Progress | None,
) -> np.ndarray:
    """Return (K, Z', Y', X') of the volume as the network takes it; tiles shrink to the memory."""
    while True:
        axes = [_tile_axis(n, tile_size) for n in volume.array.shape]
        try:
            with _common_statistics(model, moments or _sample_moments(model, volume)):
                return _blend(model, volume, axes, flips, path, progress)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or tile_size <= SMALLEST_TILE:
                raise
        gc.collect()  # the failed tile is held by the frames of its error
        tile_size = max(SMALLEST_TILE, tile_size // 2 // DEPTH_FACTOR * DEPTH_FACTOR)
        warnings.warn(
            f"memory ran out; the volume is taken in tiles of {tile_size} voxels", stacklevel=3
        )


def _blend(
    model: nn.Module,
    volume: Prepared,
    axes: list[list[tuple[int, int, np.ndarray]]],
    flips: bool,
    path: Path | None,
    progress: Progress | None,
) -> np.ndarray:
    """Return the sum of all tiles, each weighted along every axis."""
    tiles, result = list(itertools.product(*axes)), None
    for done, tile in enumerate(tiles, start=1):
        place = tuple(slice(start, stop) for start, stop, _ in tile)
        probabilities = _encode(model, volume, place, flips)
        for axis, (_, _, weight) in enumerate(tile, start=1):
            probabilities *= weight.reshape([-1 if a == axis else 1 for a in range(4)])
        if result is None:
            result = _zeros((len(probabilities), *volume.array.shape), path)
        result[(slice(None), *place)] += probabilities
        if progress:
            progress(done, len(tiles))
    return result


def _encode(
    model: nn.Module, volume: Prepared, place: tuple[slice, ...], flips: bool
) -> np.ndarray:
    """Return (K, Z, Y, X) float32 of a part of a volume, padded to edges that the network takes."""
    tile = volume.normalisation.apply(volume.array[place])
    z, y, x = tile.shape
    padded = np.pad(tile, [(0, -n % DEPTH_FACTOR) for n in tile.shape], mode="symmetric")
    image = torch.from_numpy(padded)[None, None].to(_device(model))
    axes = [c for n in range(4) for c in itertools.combinations((2, 3, 4), n)] if flips else [()]
    with torch.inference_mode():
        total = sum(model.encode(image.flip(a)).flip(a).float() for a in axes)
    return (total / len(axes))[0, :, :z, :y, :x].cpu().numpy().copy()


def measure_moments(model: nn.Module, volume: Prepared, precision: str = "float32") -> Moments:
    """Return the statistics that `predict_probabilities` uses for a volume, for all its parts."""
    with _evaluating(model, precision):
        return _sample_moments(model, volume)


def _sample_moments(model: nn.Module, volume: Prepared) -> Moments:
    """Return the moments averaged over up to 27 blocks that are spread over the volume."""
    seen: dict[str, list[Tensor]] = {}

    def record(name: str, norm: nn.GroupNorm, inputs: tuple[Tensor]) -> None:
        exact = torch.float32 if inputs[0].device.type == "mps" else torch.float64
        x = inputs[0].to(exact).reshape(norm.num_groups, -1)
        seen.setdefault(name, []).append(torch.stack((x.mean(1), x.square().mean(1))))

    hooks = [norm.register_forward_pre_hook(partial(record, name)) for name, norm in _norms(model)]
    try:
        for place in _sample_blocks(volume.array.shape):
            _encode(model, volume, place, flips=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.stack(values).mean(0) for name, values in seen.items()}


@contextlib.contextmanager
def _common_statistics(model: nn.Module, moments: Moments) -> Iterator[None]:
    """Let every group norm use mean and variance of the volume, which do not depend on tiles."""

    def apply(of_groups: Tensor, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        per_channel = of_groups.repeat_interleave(norm.num_channels // norm.num_groups, dim=1)
        mean, square = per_channel.to(x.device)
        options = {"weight": norm.weight, "bias": norm.bias, "eps": norm.eps}
        return functional.batch_norm(x, mean.float(), (square - mean**2).float(), **options)

    known = [(norm, moments[name]) for name, norm in _norms(model) if name in moments]
    for norm, of_groups in known:
        norm.forward = partial(apply, of_groups, norm)
    try:
        yield
    finally:
        for norm, _ in known:
            del norm.forward


def _norms(model: nn.Module) -> list[tuple[str, nn.GroupNorm]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, nn.GroupNorm)]


def _sample_blocks(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Return the places of blocks spread evenly over a volume, from end to end."""
    starts = [
        np.linspace(0, max(0, n - SAMPLE_SIZE), min(SAMPLES_PER_AXIS, -(-n // SAMPLE_SIZE)))
        for n in shape
    ]
    return [
        tuple(slice(int(c), int(c) + SAMPLE_SIZE) for c in corner)
        for corner in itertools.product(*starts)
    ]


def _tile_axis(n: int, tile_size: int) -> list[tuple[int, int, np.ndarray]]:
    """Return (start, stop, weights) of the tiles along an axis of n voxels.

    Tiles are as many as `tile_size` makes them, and no larger than they need to be. Starts are
    multiples of 8, so that pooling sees the same grid everywhere. Weights rise linearly over the
    overlap, leave out its outermost voxels, and sum to 1 at every voxel.
    """
    if n <= tile_size:
        return [(0, n, np.ones(n, np.float32))]
    overlap = min(OVERLAP, tile_size // 2 // DEPTH_FACTOR * DEPTH_FACTOR)
    margin = min(MARGIN, overlap // 4)
    count = -(-(n - overlap) // (tile_size - overlap))
    edge = -(-(n + (count - 1) * overlap) // (count * DEPTH_FACTOR)) * DEPTH_FACTOR
    last = -(-(n - edge) // DEPTH_FACTOR)
    spans, total = [], np.zeros(n)
    for start in np.linspace(0, last, count).round().astype(int) * DEPTH_FACTOR:
        stop = min(start + edge, n)
        inside = np.arange(stop - start) + 0.5
        left = inside - margin if start > 0 else np.full(len(inside), np.inf)
        right = inside[::-1] - margin if stop < n else np.full(len(inside), np.inf)
        weight = np.clip(np.minimum(left, right) / max(overlap - 2 * margin, 1), 0, 1)
        spans.append((int(start), int(stop), weight))
        total[start:stop] += weight
    return [(a, b, (w / total[a:b]).astype(np.float32)) for a, b, w in spans]
