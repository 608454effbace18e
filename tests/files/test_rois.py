import sys
import zipfile

import numpy as np
import pytest
from skimage.draw import polygon2mask

from wnet_nb.errors import UserError
from wnet_nb.files.writing import write_rois

roifile = pytest.importorskip("roifile")


@pytest.fixture
def labels():
    labels = np.zeros((5, 20, 30), np.uint16)
    labels[1:4, 3:9, 10:22] = 1
    labels[0:2, 12:17, 0:6] = 2
    labels[4, 19, 29] = 4  # one voxel, and no cell 3
    return labels


def test_every_cell_has_its_outline_in_each_of_its_planes(labels, tmp_path):
    path = write_rois(tmp_path / "rois.zip", labels)
    rois = {roi.name: roi for roi in roifile.roiread(path)}
    cells = {(1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (4, 5)}
    assert set(rois) == {f"cell {cell} slice {plane}" for cell, plane in cells}
    for cell, plane in cells:
        roi = rois[f"cell {cell} slice {plane}"]
        assert roi.position == plane
        down_across = roi.coordinates()[:, ::-1] - 0.5  # from a corner to a pixel's centre
        filled = polygon2mask(labels.shape[1:], down_across)
        assert np.array_equal(filled, labels[plane - 1] == cell) or cell == 4


def test_an_earlier_file_stays(labels, tmp_path):
    path = write_rois(tmp_path / "rois.zip", labels)
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists and is never overwritten"):
        write_rois(path, labels)
    assert path.read_bytes() == before and zipfile.is_zipfile(path)


def test_without_cells_or_without_roifile_it_says_so(labels, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no cells"):
        write_rois(tmp_path / "rois.zip", 0 * labels)
    monkeypatch.setitem(sys.modules, "roifile", None)
    with pytest.raises(UserError, match="%pip install roifile"):
        write_rois(tmp_path / "rois.zip", labels)
    assert list(tmp_path.iterdir()) == []
