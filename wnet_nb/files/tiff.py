"""Open a TIFF, make sure that all of it is there, and load the planes that are wanted.

tifffile reads a file that is cut short as a smaller one without a word; here it is refused.
"""

import contextlib
import logging
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from tifffile import TiffFile, TiffFileError, TiffPageSeries

from wnet_nb.errors import UserError

# Tags without which an image is read wrongly or without its scale: description, strip and
# tile places and lengths, resolution. Damage in other tags (thumbnails, vendors') is harmless.
NEEDED_TAGS = frozenset({270, 273, 279, 282, 283, 324, 325})


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[tuple[TiffFile, TiffPageSeries]]:
    """Open a TIFF quietly and give it with its one image; what goes wrong becomes one sentence.

    The image is the only one, or the only one that is not a plain 2D picture (a label, a
    thumbnail); it is complete, greyscale and real. Pages that a Python loop wrote one by one count
    as one image. UserError for whatever stands in the way, in the body of the `with` too.
    """
    logger, silence = logging.getLogger("tifffile"), logging.Filter("nothing")
    logger.addFilter(silence)  # what matters of its records becomes an error
    try:
        with contextlib.ExitStack() as stack:
            tif = stack.enter_context(TiffFile(path))
            if len(tif.pages) == 0:
                raise UserError(f"'{path.name}' holds no image; copy or export it again")
            if len(tif.series) > 1 and all(s.kind == "shaped" and s.ndim == 2 for s in tif.series):
                tif = stack.enter_context(TiffFile(path, is_shaped=False))
            _check_page_list(tif)
            image = _only_image(tif)
            _check_planes(tif, image)
            _check_values(path.name, image)
            yield tif, image
    except UserError:
        raise
    except Exception as error:  # a damaged file makes tifffile raise almost any exception
        raise UserError(_in_words(path, error)) from error
    finally:
        logger.removeFilter(silence)


def _in_words(path: Path, error: Exception) -> str:
    """Say what stands in the way of reading a file, and what to do."""
    if not path.is_file():
        return f"'{path}' does not exist or is no file; check the path"
    if isinstance(error, PermissionError):
        return f"'{path.name}' may not be read by you; ask its owner"
    if isinstance(error, MemoryError):
        return (
            f"'{path.name}' does not fit into the memory; save it uncompressed, then it is read "
            "from the disk piece by piece, or crop it"
        )
    if "imagecodecs" in str(error):
        return (
            f"'{path.name}' is compressed in a way that needs one more package; run "
            "'pip install imagecodecs', or save it again without compression"
        )
    told = isinstance(error, (TiffFileError, OSError))  # others speak of code, not of files
    reason = " ".join(str(error).split()) if told else "it is damaged"
    return f"'{path.name}' cannot be read as a TIFF ({reason}); copy or export it again"


def _check_page_list(tif: TiffFile) -> None:
    """Check that the list of pages ends regularly and that the first page's tags are readable."""
    file, form, first = tif.filehandle, tif.tiff, tif.pages.first
    offset, tables = first.offset, {}
    while offset:
        if offset in tables:
            raise _cut_short(tif, f"its list of pages runs in a circle after page {len(tables)}")
        file.seek(offset)
        try:
            (count,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
            tables[offset] = file.read(count * form.tagsize)
            (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
        except struct.error:
            raise _cut_short(tif, f"its list of pages breaks off at page {len(tables)}") from None
    table = tables[first.offset]
    codes = {
        struct.unpack_from(form.byteorder + "H", table, start)[0]
        for start in range(0, len(table), form.tagsize)
    }
    unreadable = sorted((codes & NEEDED_TAGS) - {tag.code for tag in first.tags})
    if unreadable:
        raise _cut_short(tif, f"the text or numbers of tag {unreadable[0]} are missing")


def _only_image(tif: TiffFile) -> TiffPageSeries:
    series = tif.series
    stacks = [one for one in series if math.prod(one.shape) > _plane_size(one)]
    if len(stacks) > 1 or (not stacks and len(series) > 1):
        shapes = ", ".join("×".join(map(str, one.shape)) for one in series[:4])
        more = ", ..." if len(series) > 4 else ""
        raise UserError(
            f"'{tif.filename}' holds {len(series)} separate images ({shapes}{more}); save the "
            "one to use as a file of its own"
        )
    return stacks[0] if stacks else series[0]


def _check_planes(tif: TiffFile, image: TiffPageSeries) -> None:
    """Check that every plane that the metadata promise is in the file to its last byte."""
    described = tif.is_ome or tif.is_imagej or tif.is_shaped
    strays = tif.is_shaped and len(tif.pages) > sum(len(one.pages) for one in tif.series)
    if strays or 0 in image.shape or (described and image.kind in {"uniform", "generic"}):
        raise _cut_short(tif, "its pages are not those that its description names")
    if image.dataoffset is not None:  # one block
        end = image.dataoffset + math.prod(image.shape) * image.dtype.itemsize
        if end > tif.filehandle.size and not image.is_multifile:
            raise _cut_short(tif, f"{end - tif.filehandle.size} bytes of the image are missing")
        return
    stated = math.prod(image.shape) // _plane_size(image)
    present = sum(page is not None for page in image.pages)
    found = present * math.prod(image.keyframe.shape) // _plane_size(image)
    if found != stated:
        raise _cut_short(tif, f"it holds {found} of {stated} planes")
    for number, page in enumerate(image.pages):
        size = page.parent.filehandle.size
        pieces = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        if not pieces or any(length == 0 or start + length > size for start, length in pieces):
            raise _cut_short(tif, f"plane {number} is incomplete")


def _check_values(name: str, image: TiffPageSeries) -> None:
    if image.dtype.kind not in "buif":
        raise UserError(
            f"'{name}' holds {image.dtype} values; save it with integers or real numbers"
        )
    samples = dict(zip(image.axes, image.shape, strict=True)).get("S", 1)
    if samples > 1:
        raise UserError(
            f"'{name}' is a colour (RGB) image with {samples} colours per voxel; split them in "
            "Fiji (Image > Color > Split Channels) and save the one that shows the nuclei"
        )


def _plane_size(image: TiffPageSeries) -> int:
    """Give the number of values of one plane: Y times X times the colours of an RGB image."""
    sizes = zip(image.axes, image.shape, strict=True)
    return math.prod(size for axis, size in sizes if axis in "YXS")


def _cut_short(tif: TiffFile, what: str) -> UserError:
    return UserError(f"'{tif.filename}' is incomplete: {what}; copy or export it again")


def load_planes(tif: TiffFile, image: TiffPageSeries, index: tuple[int | slice, ...]) -> np.ndarray:
    """Load a part of an image, from the disk on demand where the file allows it.

    `index` has one entry per axis of the image: a position, or slice(None) to keep the axis.
    Returned is, in the file's dtype, a read-only `np.memmap` in the file's byte order if the image
    is one uncompressed block; otherwise an array, for which only the pages asked for are decoded.
    """
    offset = image.dataoffset
    if offset is not None and not image.is_multifile and image.transform is None:
        dtype = image.dtype.newbyteorder(tif.byteorder)
        with contextlib.suppress(OSError):  # a file system without memory maps: read it
            return np.memmap(tif.filehandle.path, dtype, "r", offset, image.shape)[index]
    if math.prod(image.shape) * image.dtype.itemsize > psutil.virtual_memory().available:
        raise MemoryError  # before the system takes the memory of other programs
    outer = image.shape[:-2]
    if not image.axes.endswith("YX") or len(image.pages) != math.prod(outer):
        return image.asarray()[index]
    pages = np.arange(len(image.pages)).reshape(outer)[index[:-2]]
    planes = image.asarray(key=pages.ravel().tolist())
    return planes.reshape(*pages.shape, *image.shape[-2:])
