import numpy as np
import pytest

from wnet_nb.config import preset
from wnet_nb.grid import block_means
from wnet_nb.scale.layout import Layout, regular_boxes, shared, union, within, zarr_edge

SHAPE = (50, 61, 97)


@pytest.fixture(params=[4.0, 9.0], ids=["small cells", "large cells"])
def layout(request):
    radii = request.param / np.array([2.0, 1.0, 1.0])
    return Layout(SHAPE, 40, radii, radii, preset("scratch"))


def counted(boxes, shape):
    total = np.zeros(shape, int)
    for box in boxes:
        total[box] += 1
    return total


def test_chunks_cover_every_voxel_once(layout):
    assert (counted(layout.chunks, SHAPE) == 1).all()


def test_every_block_of_the_background_belongs_to_one_chunk(layout):
    blocks = [layout.blocks_of(number) for number in range(len(layout.chunks))]
    assert (counted(blocks, [len(starts) for starts in layout.block_starts]) == 1).all()


def test_touching_chunks_are_those_that_share_voxels(layout):
    for number in range(len(layout.chunks)):
        box = layout.with_halo(number)
        wanted = [n for n, chunk in enumerate(layout.chunks) if shared(chunk, box)]
        assert layout.touching(box) == wanted


def test_the_network_sees_a_chunk_and_a_margin_on_its_own_grid(layout):
    for number, chunk in enumerate(layout.chunks):
        seen = layout.network_box(number)
        assert all(s.start % 8 == 0 for s in seen)
        assert union(layout.in_voxels(seen), chunk) == layout.in_voxels(seen)


def test_means_of_a_part_are_those_of_the_whole(layout):
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    whole = block_means(block_means(image, layout.fine), layout.step / layout.fine)
    for number in range(len(layout.chunks)):
        blocks = layout.blocks_of(number)
        voxels = layout.voxels_of(blocks)
        start = [s.start for s in voxels]
        part = block_means(image[voxels], layout.fine, start=start)
        ratio = layout.step / layout.fine
        part = block_means(part, ratio, start=layout.fine_start(start))
        assert (part == whole[blocks]).all()


def test_boxes_are_counted_from_the_corner_of_another():
    box, other = regular_boxes((4, 4, 8), 4)
    assert within(other, union(box, other)) == (slice(0, 4), slice(0, 4), slice(4, 8))
    assert shared(box, other) is None


@pytest.mark.parametrize(("chunk", "edge"), [(32, 32), (128, 128), (256, 128), (192, 96), (40, 40)])
def test_files_on_the_disk_never_lie_in_two_chunks(chunk, edge):
    assert zarr_edge(chunk) == edge
