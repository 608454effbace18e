"""What the data say, in words: one finding, one sentence with what to do.

The rules follow the CellSeg3D guide; limits were set by looking at real and synthetic volumes.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from wnet_nb.cells.size import CellSize
from wnet_nb.config import DEPTH_FACTOR, Settings
from wnet_nb.data import Normalisation, fit_normalisation, times
from wnet_nb.errors import UserError
from wnet_nb.files.volumes import Volume
from wnet_nb.grid import thin_out

SAMPLE_VOXELS = 1_000_000
SATURATED_SHARE, PADDED_SHARE, FEW_BRIGHT = 0.002, 0.3, 0.001
VERY_BRIGHT = 50.0  # of 0-100
NOISE_SHARE = 0.16  # standard deviation of the noise in cells, as a share of their contrast
NOISE_SIGMA = 1.5  # voxels
READY_FOR_NOISE = 2.5  # times as much is borne with a large intensity sigma
BYTE_JUMPS = 0.01  # share of neighbours 128 or more apart, of 0-255, in what is no image any more
LARGE_REGION = 0.25  # thickness of a bright region, as a share of the middle edge of the volume
ANISOTROPY, SPREAD = 2.0, 0.5
ALIKE, UNLIKE = 0.8, 0.5  # share of equal neighbours from which labels, up to which images
UNEVEN = 1.05  # ratio of voxel sizes in y and x that no microscope makes
LARGEST_STEP_UM, SMALLEST_STEP_UM = 20.0, 0.005  # finest and coarsest edge of a voxel


@dataclass(frozen=True)
class Finding:
    """Something about a volume that the user should know, and what to do about it."""

    level: str  # "warning" (look at it before training) or "info"
    text: str


def looks_like_labels(array: np.ndarray) -> bool:
    """Return whether whole numbers (Z, Y, X) are labels or a mask: no noise, zero in between."""
    return array.dtype.kind in "bui" and _equal_neighbours(array) >= ALIKE


def looks_like_image(array: np.ndarray) -> bool:
    """Return whether (Z, Y, X) is an image and no labels: most neighbouring voxels differ."""
    return _equal_neighbours(array) < UNLIKE


def _equal_neighbours(array: np.ndarray) -> float:
    """Return the share of equal pairs among neighbours that are not zero; NaN without any."""
    planes = _some_planes(array, 17)
    pairs = (planes[..., 1:] != 0) & (planes[..., :-1] != 0)
    alike = (planes[..., 1:] == planes[..., :-1]) & pairs
    return float(alike.sum() / pairs.sum()) if pairs.any() else np.nan


def _some_planes(array: np.ndarray, n: int) -> np.ndarray:
    return np.asarray(array[np.linspace(0, len(array) - 1, n).astype(int)])


def check_volume(volume: Volume, settings: Settings) -> list[Finding]:
    """Say what in a volume is unsuitable for these settings; UserError if it cannot be used."""
    array = volume.array
    if min(array.shape) < DEPTH_FACTOR:
        raise UserError(
            f"it is {times(array.shape)} voxels (z, y, x) and each axis needs at least "
            f"{DEPTH_FACTOR}; take a larger volume"
        )
    ranges = fit_normalisation(array, settings.normalisation, name=volume.name)
    if ranges.high <= ranges.low:
        raise UserError(f"every voxel has the same value ({ranges.low:g}); export the file again")
    raw = thin_out(array, SAMPLE_VOXELS)
    sample = ranges.apply(raw)
    warnings = itertools.chain(
        _check_content(array),
        _check_voxel_size(volume.voxel_size_um),
        _check_brightness(raw, sample),
        _check_regions(sample, volume.voxel_size_um),
        _check_noise(array, ranges, settings),
    )
    found = [Finding("warning", text) for text in warnings] + read_remarks(volume)
    return found + [Finding("info", text) for text in _check_grid(volume, settings)]


def _check_content(array: np.ndarray) -> Iterator[str]:
    """Recognise what is no image: labels, and numbers that were cut down to a byte."""
    if looks_like_labels(array):
        yield (
            "it looks like labels or a mask and not like an image, as neighbouring voxels are "
            "alike; name it like its image with _labels at the end, or keep it elsewhere"
        )
    elif array.dtype in (np.uint8, np.int8):
        planes = _some_planes(array, 9).astype(np.int16)
        jumps = float((np.abs(np.diff(planes, axis=2)) >= 128).mean())
        if jumps > BYTE_JUMPS:
            yield (
                f"{_percent(jumps)} of neighbouring voxels lie half of the 8-bit range apart, as "
                "in noise, or in 16-bit values that were cut to 8 bit and wrapped around; export "
                "it again as 16 bit, or scale it before converting"
            )


def _check_voxel_size(voxel_size_um: Sequence[float]) -> Iterator[str]:
    """Ask about a voxel size in another order than z, y, x, or in another unit than µm."""
    z, y, x = voxel_size_um
    if max(y, x) > UNEVEN * min(y, x):
        hint = f" (voxel_size_um={x:g},{y:g},{y:g} if x came first)" if z == y else ""
        yield (
            f"voxels are {y:g} µm in y and {x:g} µm in x, which no microscope makes: is the order "
            f"z,y,x right?{hint}"
        )
    finest, coarsest = min(voxel_size_um), max(voxel_size_um)
    if finest > LARGEST_STEP_UM or coarsest < SMALLEST_STEP_UM:
        unit = "nm" if finest > LARGEST_STEP_UM else "mm"
        yield (
            f"a cell 10 voxels across would be {10 * finest:,g} µm wide: is the voxel size in "
            f"{unit}? give voxel_size_um in µm"
        )


def _check_brightness(raw: np.ndarray, sample: np.ndarray) -> Iterator[str]:
    # A value shared by so many voxels is the end of the camera's range, whatever the dtype.
    saturated, padded = (raw == raw.max()).mean(), (raw == raw.min()).mean()
    if saturated > SATURATED_SHARE:
        yield (
            f"{_percent(saturated)} of the voxels have the largest value ({raw.max():g}): cells "
            "are overexposed and may merge; lower the exposure or laser power next time"
        )
    if padded > PADDED_SHARE:
        yield (
            f"{_percent(padded)} of the voxels have the very lowest value ({raw.min():g}): much "
            "of the volume is empty or padded; crop it to the part with cells"
        )
    lowest, middle, top = np.percentile(sample, (0.5, 50, 99.5))
    if middle > 50 and top - middle < middle - lowest:
        yield (
            "most voxels are bright and few are dark: if the cells are the dark ones, invert "
            "the image (Fiji: Edit > Invert), as cells must be brighter than the background"
        )


def _check_regions(sample: np.ndarray, voxel_size_um: Sequence[float]) -> Iterator[str]:
    smooth = ndimage.gaussian_filter(sample, 1)
    share = float((smooth > threshold_otsu(smooth)).mean())
    if share < FEW_BRIGHT:
        yield (
            f"only {_percent(share)} of the voxels are bright: the volume is mostly empty; "
            "crop it to the part with cells"
        )
        return
    # The sample is as coarse along each axis, so proportions hold without its step.
    depth = ndimage.distance_transform_edt(smooth > VERY_BRIGHT, sampling=voxel_size_um)
    edges = np.array(sample.shape) * voxel_size_um
    part = 2 * float(depth.max()) / np.sort(edges)[1]
    if part >= LARGE_REGION:
        yield (
            f"a very bright region fills {_percent(part)} of the width: the network may learn it "
            "in place of the cells; crop it away, unless it is a cell"
        )


def _check_noise(array: np.ndarray, ranges: Normalisation, settings: Settings) -> Iterator[str]:
    """Compare the noise where it is bright with the contrast there, both from smoothed planes."""
    planes = ranges.apply(_some_planes(array, 9))
    smooth = ndimage.gaussian_filter(planes, (0, NOISE_SIGMA, NOISE_SIGMA))
    bright = smooth[..., 1:] > np.percentile(smooth, 90)
    steps = np.diff(planes, axis=2)[bright]
    contrast = float(np.percentile(smooth, 99.5) - np.median(smooth))
    if contrast <= 0 or not steps.size:
        return
    share = 1.4826 * float(np.median(np.abs(steps))) / np.sqrt(2) / contrast
    advice, limit = "raise intensity_sigma (now {:g}) to 10 or more", NOISE_SHARE
    if settings.intensity_sigma >= 10:  # set for noise already
        advice, limit = "denoise it or average more frames", NOISE_SHARE * READY_FOR_NOISE
    if share >= limit:
        yield (
            f"it is noisy: from voxel to voxel, grey values jump by {_percent(share)} of the "
            f"contrast of the cells; {advice.format(settings.intensity_sigma)}"
        )


def _check_grid(volume: Volume, settings: Settings) -> Iterator[str]:
    _, high, wide = patch = settings.patch_shape
    ratio = volume.voxel_size_um[0] / min(volume.voxel_size_um[1:])
    if ratio > ANISOTROPY:
        edge = max(DEPTH_FACTOR, round(high / ratio / DEPTH_FACTOR) * DEPTH_FACTOR)
        yield (
            f"voxels are {ratio:.3g} times as long in z as in the plane; patches of equal edges "
            f"in µm have {edge},{high},{wide} voxels: set patch_size to that"
        )
    if np.less(volume.shape, patch).any():
        yield (
            f"it is smaller than a patch of {times(patch)} voxels; patches are cut down or "
            "mirrored at the edge, which works if cells fit in"
        )


def read_remarks(volume: Volume) -> list[Finding]:
    """Return what reading the file brought up, such as a voxel size that had to be assumed."""
    level = "warning" if volume.voxel_size_source == "assumed" else "info"
    return [Finding(level, remark) for remark in volume.remarks]


def check_cell_size(found: CellSize | None, settings: Settings) -> Finding:
    """Say how large the cells seem to be, and whether a patch holds enough of them."""
    if found is None:
        text = "no cells stand out of the noise: is it the right channel?"
        return Finding("warning", f"{text} (if you know the cells, give cell_radius_um)")
    if found.spread > SPREAD:
        return Finding("info", "bright objects differ much in size; look at the cells found later")
    voxels = " × ".join(f"{length:.2g}" for length in found.radius_voxels)
    text = f"bright objects have a radius of about {found.radius_um:.3g} µm ({voxels} voxels)"
    if np.less(settings.patch_shape, 4 * np.array(found.radius_voxels)).any():
        return Finding("warning", f"{text}, hardly one in a patch; raise patch_size or scale down")
    return Finding("info", f"{text}; is that a cell?")


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
