import numpy as np
import pytest
from dask.distributed import LocalCluster

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb.files.writing import write_volume
from wnet_nb.jobs.segment import segment

SHAPE, VOXEL = (48, 72, 80), (2.0, 1.0, 1.0)


@pytest.fixture(scope="session")
def cluster():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def address(cluster):
    return cluster.scheduler_address


@pytest.fixture(scope="session")
def nuclei(tmp_path_factory):
    """Return a TIFF of nuclei of radius 5 µm, deeper voxels than wide, and its image."""
    image, _ = make_nuclei(shape=SHAPE, voxel_size_um=VOXEL, cell_radius_um=5, n_cells=90)
    path = tmp_path_factory.mktemp("nuclei") / "nuclei.tif"
    write_volume(path, image, voxel_size_um=VOXEL)
    return path, image


@pytest.fixture(scope="session")
def whole(nuclei, tmp_path_factory):
    """Return what the same steps give on the volume as a whole, without a network."""
    return segment("none", nuclei[0], out=tmp_path_factory.mktemp("whole"))[0]


@pytest.fixture
def same_cells():
    """Compare two label images: the same voxels are together in both, whatever their numbers."""

    def compare(found, wanted):
        pairs = np.unique(np.stack([found[:].ravel(), wanted.ravel()]), axis=1)
        return len(pairs[0]) == len(set(pairs[0])) == len(set(pairs[1]))

    return compare
