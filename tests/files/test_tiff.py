"""Damaged and unreadable files: always one sentence, never a smaller or a zeroed volume."""

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from wnet_nb.errors import UserError
from wnet_nb.files.volumes import read_volume

STACK = np.random.default_rng(0).integers(1, 60000, (9, 20, 30)).astype("uint16")

DIALECTS = {
    "shaped": {},
    "shaped compressed": {"compression": "zlib"},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "imagej compressed": {"imagej": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
    "ome": {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeZ": 3.0}},
    "ome compressed": {"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
    "plain": {"metadata": None},
    "big-endian BigTIFF": {"byteorder": ">", "bigtiff": True},
    "tiled": {"tile": (16, 16)},
}


def write_page_by_page(path, stack, **options):
    with tifffile.TiffWriter(path) as writer:
        for plane in stack:
            writer.write(plane, contiguous=False, metadata=None, **options)


def assert_no_cut_goes_unnoticed(whole, cut):
    """Cut a file at 60 places and at every third of its last 600 bytes."""
    content = whole.read_bytes()
    size = len(content)
    places = {*range(0, size, size // 60), *range(size - 600, size, 3)}
    refused = 0
    for place in sorted(places):
        cut.write_bytes(content[:place])
        try:
            volume = read_volume(cut)
        except UserError as error:
            assert "'cut.tif'" in str(error) and "\n" not in str(error)
            refused += 1
        else:  # nothing but the padding at the end is missing
            np.testing.assert_array_equal(volume.array, STACK)
            assert size - place <= 16
    assert refused > 60


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_file_cut_anywhere_is_refused(tmp_path, dialect):
    tifffile.imwrite(tmp_path / "whole.tif", STACK, **DIALECTS[dialect])
    assert_no_cut_goes_unnoticed(tmp_path / "whole.tif", tmp_path / "cut.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_written_page_by_page_and_cut_anywhere_is_refused(tmp_path, compression):
    write_page_by_page(tmp_path / "whole.tif", STACK, compression=compression)
    assert_no_cut_goes_unnoticed(tmp_path / "whole.tif", tmp_path / "cut.tif")


@pytest.mark.parametrize(
    "description",
    [
        "ImageJ=1.54f\nimages=12\nslices=12\n",
        "ImageJ=1.54f\nimages=3\nslices=3\n",
        '{"shape": [12, 20, 30]}',
        '{"shape": [3, 20, 30]}',
    ],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_other_planes_than_the_metadata_promise_are_refused(tmp_path, description, compression):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for number, plane in enumerate(STACK):
            text = description if number == 0 else None
            writer.write(
                plane, contiguous=False, metadata=None, description=text, compression=compression
            )
    with pytest.raises(UserError, match=r"'a.tif' is incomplete: "):
        read_volume(tmp_path / "a.tif")


def test_an_aborted_ome_acquisition_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "done.tif", STACK, ome=True, metadata={"axes": "ZYX"})
    xml = tifffile.tiffcomment(tmp_path / "done.tif")
    assert 'SizeZ="9"' in xml and 'PlaneCount="9"' in xml
    xml = xml.replace('SizeZ="9"', 'SizeZ="12"').replace('PlaneCount="9"', 'PlaneCount="12"')
    tifffile.imwrite(tmp_path / "a.tif", STACK, description=xml, metadata=None)
    with pytest.raises(UserError, match=r"'a.tif' is incomplete: it holds 9 of 12 planes"):
        read_volume(tmp_path / "a.tif")


def test_a_missing_file_of_an_ome_set_is_not_read_as_zeros(tmp_path):
    uuid, other = (
        "urn:uuid:aaaaaaaa-0000-4000-8000-000000000001",
        "urn:uuid:aaaaaaaa-0000-4000-8000-000000000002",
    )
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="{uuid}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
        'Type="uint16" SizeX="30" SizeY="20" SizeZ="2" SizeC="1" SizeT="1">'
        f'<TiffData IFD="0" FirstZ="0" PlaneCount="1"><UUID FileName="a.ome.tif">{uuid}</UUID>'
        f'</TiffData><TiffData IFD="0" FirstZ="1" PlaneCount="1"><UUID FileName="b.ome.tif">{other}'
        "</UUID></TiffData></Pixels></Image></OME>"
    )
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK[0], description=xml, metadata=None)
    with pytest.raises(UserError, match=r"'a.ome.tif' is incomplete: it holds 1 of 2 planes"):
        read_volume(path)


@pytest.mark.parametrize(
    "content", [b"", b"II", b"II*\0\0\0\0\0", b"<html>404</html>", b"\x89PNG" * 99]
)
def test_what_is_no_tiff_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(UserError, match=r"^'a.tif' (cannot be read as a TIFF|holds no image)"):
        read_volume(tmp_path / "a.tif")


def test_compressed_data_that_were_changed_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, compression="zlib")
    content = bytearray(path.read_bytes())
    content[2000:2400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"'a.tif' cannot be read as a TIFF"):
        read_volume(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"missing.tif' does not exist or is no file; check the path"
    ):
        read_volume(tmp_path / "missing.tif")
    with pytest.raises(UserError, match="is no file"):
        read_volume(tmp_path)


def test_a_compression_without_its_package_says_what_to_install(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK, compression="lzw")
    code = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "from wnet_nb.errors import UserError\nfrom wnet_nb.files import volumes\n"
        "try: volumes.read_volume(sys.argv[1])\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.tif"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.stdout == (
        "'a.tif' is compressed in a way that needs one more package; run 'pip install "
        "imagecodecs', or save it again without compression\n"
    )
    assert done.stderr == ""


def test_reading_a_damaged_file_logs_nothing_and_leaves_the_logger_as_it_was(tmp_path, caplog):
    logger = logging.getLogger("tifffile")
    before = (logger.level, logger.disabled, list(logger.filters), list(logger.handlers))
    tifffile.imwrite(tmp_path / "a.tif", STACK)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError):
        read_volume(tmp_path / "a.tif")
    assert caplog.records == []
    assert (logger.level, logger.disabled, list(logger.filters), list(logger.handlers)) == before


def test_what_is_larger_than_the_memory_is_refused_unless_it_can_be_mapped(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "packed.tif", STACK, compression="zlib")
    tifffile.imwrite(tmp_path / "plain.tif", STACK)
    left = SimpleNamespace(available=STACK.nbytes - 1)
    monkeypatch.setattr("wnet_nb.files.tiff.psutil.virtual_memory", lambda: left)
    with pytest.raises(UserError, match=r"'packed.tif' does not fit into the memory"):
        read_volume(tmp_path / "packed.tif")
    np.testing.assert_array_equal(read_volume(tmp_path / "plain.tif").array, STACK)


def test_a_list_of_pages_that_runs_in_a_circle_is_refused(tmp_path):
    write_page_by_page(tmp_path / "a.tif", STACK)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        first, last = tif.pages[0].offset, tif.pages[-1]
        place = last.offset + 2 + 12 * len(last.tags)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[place : place + 4] = first.to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(UserError, match=r"'a.tif' (is incomplete|cannot be read)"):
        read_volume(tmp_path / "a.tif")
