"""What the data say, in words: one finding, one sentence with what to do.

The rules follow the CellSeg3D guide: bright objects on a darker background, no large empty regions,
no very bright large ones. The limits were set by looking at real and synthetic volumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from wnet_nb.cells.size import CellSize
from wnet_nb.config import DEPTH_FACTOR, Settings
from wnet_nb.data import Normalisation, fit_normalisation
from wnet_nb.errors import UserError
from wnet_nb.files.volumes import Volume
from wnet_nb.grid import thin_out

SAMPLE_VOXELS = 1_000_000
SATURATED_SHARE, PADDED_SHARE = 0.002, 0.3
FEW_BRIGHT, MANY_BRIGHT = 0.001, 0.6
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
    """Something about a volume that the user should know, and what to do about it.

    The level is ``error`` (cannot be used), ``warning`` (look at it before training) or ``info``.
    """

    level: str
    text: str


def is_usable(findings: Sequence[Finding]) -> bool:
    """Return whether no finding is an error."""
    return all(finding.level != "error" for finding in findings)


def looks_like_labels(array: np.ndarray) -> bool:
    """Return whether whole numbers (Z, Y, X) are labels or a mask: no noise, zero in between."""
    share = _equal_neighbours(array)
    return array.dtype.kind in "bui" and share is not None and share >= ALIKE


def looks_like_image(array: np.ndarray) -> bool:
    """Return whether (Z, Y, X) is an image and no labels: most neighbouring voxels differ."""
    share = _equal_neighbours(array)
    return share is not None and share < UNLIKE


def _equal_neighbours(array: np.ndarray) -> float | None:
    """Return the share of equal pairs among neighbours that are not zero; None without any."""
    planes = array[np.linspace(0, len(array) - 1, 17).astype(int)]
    pairs = (planes[..., 1:] != 0) & (planes[..., :-1] != 0)
    alike = (planes[..., 1:] == planes[..., :-1]) & pairs
    return float(alike.sum() / pairs.sum()) if pairs.any() else None


def check_volume(volume: Volume, settings: Settings) -> list[Finding]:
    """Say what is wrong with a volume, or unsuitable for training; errors first.

    Parameters
    ----------
    volume : Volume
        As read; large volumes are looked at through a sample of their voxels.
    settings : Settings
        `patch_size`, `normalisation`, `intensity_sigma`.
    """
    array = volume.array
    if min(array.shape) < DEPTH_FACTOR:
        text = f"each axis needs at least {DEPTH_FACTOR}; take a larger volume"
        size = " × ".join(map(str, array.shape))
        return [Finding("error", f"it is {size} voxels (z, y, x) and {text}")]
    try:
        ranges = fit_normalisation(array, settings.normalisation, name=volume.name)
    except UserError as error:
        return [Finding("error", str(error))]
    if ranges.high <= ranges.low:
        text = f"every voxel has the same value ({ranges.low:g}); export the file again"
        return [Finding("error", text)]
    raw = thin_out(array, SAMPLE_VOXELS)
    sample = ranges.apply(raw)
    warnings = [
        *_check_content(array),
        *_check_voxel_size(volume.voxel_size_um),
        *_check_brightness(raw, sample),
        *_check_regions(sample, volume.voxel_size_um),
        *_check_noise(array, ranges, settings),
    ]
    return [
        *(Finding("warning", text) for text in warnings),
        *read_remarks(volume),  # warnings or infos
        *(Finding("info", text) for text in _check_grid(volume, settings)),
    ]


def _check_content(array: np.ndarray) -> Iterator[str]:
    """Recognise what is no image: labels, and numbers that were cut down to a byte."""
    if looks_like_labels(array):
        yield (
            "it looks like labels or a mask and not like an image, as neighbouring voxels are "
            "alike; name it like its image with _labels at the end, or keep it elsewhere"
        )
    planes = np.asarray(array[np.linspace(0, len(array) - 1, 9).astype(int)])
    if array.dtype.itemsize == 1 and array.dtype.kind in "ui":
        jumps = np.abs(np.diff(planes.astype(np.int16), axis=2)) >= 128
        if jumps.mean() > BYTE_JUMPS and not looks_like_labels(array):
            yield (
                f"{_percent(float(jumps.mean()))} of neighbouring voxels lie half of the 8-bit "
                "range apart, as in noise, or in 16-bit values that were cut to 8 bit and wrapped "
                "around; export it again as 16 bit, or scale it before converting"
            )


def _check_voxel_size(voxel_size_um: Sequence[float]) -> Iterator[str]:
    """Ask about a voxel size in another order than z, y, x, or in another unit than µm."""
    z, y, x = voxel_size_um
    if max(y, x) > UNEVEN * min(y, x):
        yield (
            f"voxels are {y:g} µm in y and {x:g} µm in x, which no microscope makes: is the order "
            f"z,y,x right? (voxel_size_um={x:g},{y:g},{y:g} if x came first)"
            if z == y
            else f"voxels are {y:g} µm in y and {x:g} µm in x, which no microscope makes: give "
            "voxel_size_um in the order z,y,x"
        )
    wide = "a cell 10 voxels across would be"
    if min(voxel_size_um) > LARGEST_STEP_UM:
        across = 10 * min(voxel_size_um)
        yield f"{wide} {across:,.0f} µm wide: is the voxel size in nm? give voxel_size_um in µm"
    if max(voxel_size_um) < SMALLEST_STEP_UM:
        across = 10 * max(voxel_size_um)
        yield f"{wide} {across:.2g} µm wide: is the voxel size in mm? give voxel_size_um in µm"


def _check_brightness(raw: np.ndarray, sample: np.ndarray) -> Iterator[str]:
    low, high = raw.min(), raw.max()
    saturated, padded = float((raw == high).mean()), float((raw == low).mean())
    # A value shared by so many voxels is the end of the camera's range, whatever the dtype.
    if saturated > SATURATED_SHARE:
        yield (
            f"{_percent(saturated)} of the voxels have the largest value ({high:g}): cells are "
            "overexposed and may merge; lower the exposure or laser power next time"
        )
    if padded > PADDED_SHARE:
        yield (
            f"{_percent(padded)} of the voxels have the very lowest value ({low:g}): much of "
            "the volume is empty or padded; crop it to the part with cells"
        )
    middle, top = np.percentile(sample, (50, 99.5))
    if middle > 50 and top - middle < middle - np.percentile(sample, 0.5):
        yield (
            "most voxels are bright and few are dark: if the cells are the dark ones, invert "
            "the image (Fiji: Edit > Invert), as cells must be brighter than the background"
        )


def _check_regions(sample: np.ndarray, voxel_size_um: Sequence[float]) -> Iterator[str]:
    smooth = ndimage.gaussian_filter(sample, 1)
    bright = smooth > threshold_otsu(smooth)
    share = float(bright.mean())
    if share < FEW_BRIGHT:
        yield (
            f"only {_percent(share)} of the voxels are bright: the volume is mostly empty; "
            "crop it to the part with cells"
        )
        return
    if share > MANY_BRIGHT:
        yield (
            f"{_percent(share)} of the voxels are bright: hardly any background is left to "
            "tell cells from; take a volume with both"
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
    """Compare the noise where it is bright, from neighbouring voxels, with the contrast there.

    Light itself is noisy, so cells are noisier than the background; and noise must not raise the
    contrast that it is compared with: both are taken from smoothed planes.
    """
    planes = np.linspace(0, len(array) - 1, 9).astype(int)
    crop = ranges.apply(array[planes])  # (9, Y, X)
    smooth = ndimage.gaussian_filter(crop, (0, NOISE_SIGMA, NOISE_SIGMA))
    bright = smooth[..., 1:] > np.percentile(smooth, 90)
    steps = np.diff(crop, axis=2)[bright]
    contrast = float(np.percentile(smooth, 99.5) - np.median(smooth))
    if contrast <= 0 or not steps.size:
        return
    share = 1.4826 * float(np.median(np.abs(steps))) / np.sqrt(2) / contrast
    ready = settings.intensity_sigma >= 10  # set for noise already
    if share < NOISE_SHARE * (READY_FOR_NOISE if ready else 1):
        return
    advice = f"raise intensity_sigma (now {settings.intensity_sigma:g}) to 10 or more"
    yield (
        f"it is noisy: from voxel to voxel, grey values jump by {_percent(share)} of the contrast "
        "of the cells; " + ("denoise it or average more frames" if ready else advice)
    )


def _check_grid(volume: Volume, settings: Settings) -> Iterator[str]:
    z, y, x = volume.voxel_size_um
    high, wide = settings.patch_shape[1:]
    ratio = z / min(y, x)
    if ratio > ANISOTROPY:
        edge = max(DEPTH_FACTOR, round(high / ratio / 8) * 8)
        yield (
            f"voxels are {ratio:.3g} times as long in z as in the plane; patches of equal edges "
            f"in µm would be patch_size={edge},{high},{wide}"
        )
    sizes = zip("zyx", volume.shape, settings.patch_shape, strict=True)
    small = [f"{axis} = {have}" for axis, have, want in sizes if have < want]
    if small:
        size = settings.patch_size
        size = ",".join(map(str, size)) if isinstance(size, tuple) else size
        yield (
            f"it is smaller than patch_size={size} ({', '.join(small)}); patches are cut down or "
            "mirrored at the edge, which works if cells fit in"
        )


def read_remarks(volume: Volume) -> list[Finding]:
    """Return what reading the file brought up, such as a voxel size that had to be assumed."""
    level = "warning" if volume.voxel_size_source == "assumed" else "info"
    return [Finding(level, remark) for remark in volume.remarks]


def check_cell_size(found: CellSize | None, settings: Settings) -> Finding:
    """Say how large the cells seem to be, and whether a patch holds enough of them."""
    if found is None:
        return Finding(
            "warning",
            "no cells stand out of the noise: is it the right channel? (if you know the cells, "
            "give cell_radius_um)",
        )
    if found.spread > SPREAD:
        return Finding("info", "bright objects differ much in size; look at the cells found later")
    voxels = " × ".join(f"{length:.2g}" for length in found.radius_voxels)
    text = f"bright objects have a radius of about {found.radius_um:.3g} µm ({voxels} voxels)"
    ratio = [n / r for n, r in zip(settings.patch_shape, found.radius_voxels, strict=True)]
    if min(ratio) < 4:
        text += ": a patch holds hardly one; raise patch_size or scale it down"
        return Finding("warning", text)
    return Finding("info", f"{text}; is that a cell?")


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
