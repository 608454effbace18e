import io

import numpy as np
import pytest
from skimage.io import imread

from wnet_nb.events import Preview
from wnet_nb.figures import curves, overlay, planes

HISTORY = [
    {"epoch": n, "soft_ncut": 1 / n, "reconstruction": 300 / n, "total": 2 / n, "changes": ""}
    for n in range(1, 13)
]
CUBE = (1, 1, 1)


@pytest.fixture
def words(monkeypatch):
    """What is written on pictures, in order."""
    written, real = [], planes.write

    def write(image, text, *args, **kwargs):
        written.append(text)
        return real(image, text, *args, **kwargs)

    monkeypatch.setattr(planes, "write", write)
    return written


def preview(n_classes=2):
    random = np.random.default_rng(0)
    image = random.uniform(0, 100, (16, 24, 24)).astype(np.float32)
    probabilities = random.dirichlet(np.ones(n_classes), image.shape).astype(np.float32)
    return Preview(image, np.moveaxis(probabilities, -1, 0), image / 2)


def cells(*starts):
    labels = np.zeros((20, 30, 30), np.int32)
    for n, (z, y, x) in enumerate(starts, start=1):
        labels[z : z + 6, y : y + 6, x : x + 6] = n
    return labels


def pixels(png):
    return imread(io.BytesIO(png)).astype(int)


def outlined(labels, baseline):
    """Return how many pixels of outlines have each of the three colours."""
    png = overlay.overlay_png(labels * 0 + 5, labels, baseline, voxel_size_um=CUBE, name="a")
    image = pixels(png)[: -2 * overlay.LINE]  # without the legend
    counts = []
    for colour in (overlay.SAME_COLOUR, overlay.NETWORK_COLOUR, overlay.BASELINE_COLOUR):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        counts.append(int((np.abs(image - wanted).sum(axis=-1) < 9).sum()))
    return counts


def test_the_preview_shows_image_every_class_and_reconstruction(words):
    overlay.preview_png(preview(3), voxel_size_um=(2, 1, 1), title="Epoch 3")
    classes = [f"class {k}: how probable\n(dark 0, yellow 1)" for k in range(3)]
    wanted = ["Epoch 3", "image", *classes, "reconstruction", "10 µm"]
    assert [text for text in words if text not in planes.NAMES] == wanted


def test_a_preview_without_voxel_size_says_voxels_and_not_micrometres(words):
    overlay.preview_png(preview(), voxel_size_um=None)
    assert words[-1] == "10 voxels"


def test_cells_of_the_preview_are_counted_and_coloured(words):
    labels = np.zeros((16, 24, 24), np.int32)
    labels[6:10, 8:14, 8:14] = 1
    image = pixels(overlay.preview_png(preview(), voxel_size_um=CUBE, cells=labels))
    assert "1 cells in the patch" in words
    coloured = np.ptp(image[: overlay.PREVIEW_PIXELS, : overlay.PREVIEW_PIXELS], axis=-1) > 30
    assert 0.002 < coloured.mean() < 0.3


def test_pictures_that_a_narrow_page_shows_at_half_their_size_have_large_letters(monkeypatch):
    sizes, real = [], planes.write

    def write(image, text, place, size, *args, **kwargs):
        sizes.append(size)
        return real(image, text, place, size, *args, **kwargs)

    monkeypatch.setattr(planes, "write", write)
    overlay.preview_png(preview(), voxel_size_um=CUBE, title="a")
    overlay.projections_png(cells((7, 12, 12)), CUBE)
    overlay.affinity_png(*np.ones((3, 15, 15)), point=(7, 7), white=1)
    assert min(sizes) >= 19


def test_the_progress_picture_holds_losses_and_preview():
    png = overlay.preview_png(preview(), voxel_size_um=CUBE, title="a")
    image, alone = pixels(overlay.progress_png(HISTORY, png)), pixels(png)
    assert (image[-len(alone) :] == alone).all() and (image[:400] < 255).any()
    drawn = pixels(curves.figure_png(curves.plot_losses(HISTORY)))  # grows with its letters
    height = image.shape[0] - alone.shape[0]
    assert height / image.shape[1] == pytest.approx(drawn.shape[0] / drawn.shape[1], rel=0.01)


def test_the_overlay_counts_the_cells_with_and_without_the_network(words):
    labels, baseline = cells((2, 2, 2), (2, 16, 16), (12, 2, 20)), cells((2, 2, 2))
    overlay.overlay_png(labels * 9, labels, baseline, voxel_size_um=(2, 1, 1), name="a")
    assert words[0] == "a: 3 cells with the network, 1 without"


def test_the_overlay_of_cells_found_without_a_network_compares_with_nothing(words):
    labels = cells((2, 2, 2))
    overlay.overlay_png(labels, labels, None, voxel_size_um=CUBE, name="a")
    assert words[0] == "a: 1 cells" and "network" not in " ".join(words)


def test_an_outline_has_the_colour_of_who_found_the_cell():
    here, there = cells((7, 12, 12)), cells((7, 1, 12))
    same, network, baseline = outlined(here, here)
    assert same > 500 and network == baseline == 0
    same, network, baseline = outlined(here, here * 0)
    assert network > 500 and same == baseline == 0
    same, network, baseline = outlined(here * 0, here)
    assert baseline > 500 and same == network == 0
    both = here + 2 * there
    same, network, baseline = outlined(both, here)
    assert same > 500 and network > 500 and baseline == 0


def test_a_cell_of_another_extent_counts_as_the_same_from_half_the_overlap():
    small, large = np.zeros((2, 20, 30, 30), np.int32)
    small[8:12, 8:18, 8:18], large[8:12, 8:18, 8:24] = 1, 1  # IoU 10 / 16
    assert outlined(small, large)[1:] == [0, 0]
    large[8:12, 8:18, 8:29] = 1  # IoU 10 / 21
    assert outlined(small, large)[0] == 0


def test_outlines_are_two_pixels_wide_and_part_cells_that_touch():
    labels = np.zeros((20, 20, 20), np.int32)
    labels[8:12, 4:16, 4:10], labels[8:12, 4:16, 10:16] = 1, 2
    image = pixels(overlay.overlay_png(labels * 0, labels, labels, voxel_size_um=CUBE, name="a"))
    yellow = (np.abs(image - (255, 225, 25)).sum(axis=-1) < 9)[:500]  # XY alone
    row = np.flatnonzero(yellow.any(axis=1)).mean().round().astype(int)
    places = np.flatnonzero(yellow[row])
    assert np.diff(places).tolist().count(1) == 3 and len(places) == 6


def test_a_constant_image_without_cells_is_drawn():
    none = np.zeros((8, 16, 16), np.int32)
    assert pixels(overlay.overlay_png(none, none, none, voxel_size_um=CUBE, name="a")).any()


def test_the_overlay_of_a_large_volume_says_which_part_it_shows(words):
    labels = np.zeros((8, 1200, 900), np.uint16)
    labels[2:6, 1000:1010, 100:110] = 1
    overlay.overlay_png(labels, labels, labels, voxel_size_um=CUBE, name="a")
    assert "y 813-1196 of 1200" in words[1] and "x 0-383 of 900" in words[1]


def test_a_flat_and_a_narrow_volume_are_drawn_at_true_proportions():
    for shape in ((4, 60, 40), (14, 30, 20)):
        image = np.zeros(shape)
        labels = np.zeros(shape, np.int32)
        png = overlay.overlay_png(image, labels, labels, voxel_size_um=(2, 1, 1), name="a")
        black = (pixels(png) == 0).all(axis=-1)[:, overlay.MARGIN + 2]
        runs = np.diff(np.flatnonzero(np.diff(black, prepend=False, append=False)))[::2]
        height, depth = (int(run) for run in runs if run > 20)
        width = (overlay.WIDTH_PIXELS / max(2 * shape[2], shape[1] + shape[2])) * shape[2]
        assert height / width == pytest.approx(shape[1] / shape[2], rel=0.05)
        assert depth / width == pytest.approx(2 * shape[0] / shape[2], rel=0.05)


def test_the_cells_from_three_sides_have_a_scale_bar(words):
    image = pixels(overlay.projections_png(cells((7, 12, 12)), CUBE))
    assert words == ["from above", "from the front", "from the right", "5 µm"]
    assert image.shape[1] == pytest.approx(overlay.WIDTH_PIXELS + 4 * overlay.MARGIN, abs=3)


def test_from_each_side_the_nearest_cell_is_seen():
    labels = np.zeros((20, 20, 20), np.int32)
    labels[2:6, 2:8, 2:8], labels[12:18, 2:8, 2:8] = 1, 2  # 1 lies above 2
    colours = planes.cell_colours(labels)

    def seen(view, row, column):
        if not view[row, column].any():
            return 0
        likeness = [np.corrcoef(view[row, column], colour)[0, 1] for colour in colours[1:]]
        return 1 + int(np.argmax(likeness))

    above = overlay.look_at(labels, CUBE, colours)
    front = overlay.look_at(labels.transpose(1, 0, 2)[::-1], CUBE, colours)
    assert seen(above, 5, 5) == 1 and seen(above, 15, 15) == 0
    assert [seen(front, z, 5) for z in (3, 9, 15)] == [1, 0, 2]


def test_the_three_sides_have_true_proportions():
    png = overlay.projections_png(np.ones((10, 20, 30), np.uint16), (4, 1, 2))
    first = (pixels(png)[overlay.MARGIN + overlay.LINE :, overlay.MARGIN + 5] < 255).any(axis=-1)
    pixel_um = (60 + 60 + 20) / overlay.WIDTH_PIXELS  # x, x and y in µm
    assert first.argmin() * pixel_um == pytest.approx(20, rel=0.03)  # y


def test_a_single_plane_can_be_looked_at():
    assert pixels(overlay.projections_png(np.ones((1, 1, 9), np.uint16), CUBE)).any()


def test_the_affinity_has_its_terms_their_product_and_the_voxel_is_marked(words):
    intensity, spatial = np.ones((15, 15)), np.zeros((15, 15))
    png = overlay.affinity_png(100 * intensity, intensity, spatial, point=(7, 3), white=100)
    for title in ("image, 0-100", "alike in brightness", "near enough", "both: pulls together"):
        assert any(text.startswith(title) for text in words)
    scale, left = overlay.BLOCK_PIXELS // 15, overlay.MARGIN
    red = (pixels(png) @ (1, -1, -1) > 200)[:, left : left + 15 * scale]  # of the first block
    assert np.nonzero(red)[1].mean() == pytest.approx((3 + 0.5) * scale, abs=2)
    assert words.count("+") == 4 and words[-1] == "2 voxels"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: curves.figure_png(curves.plot_losses(HISTORY)),
        lambda: overlay.preview_png(preview(), voxel_size_um=(3, 1, 1), title="Epoch 1"),
        lambda: overlay.progress_png(
            HISTORY, overlay.preview_png(preview(), voxel_size_um=None, title="a")
        ),
        lambda: overlay.overlay_png(
            cells((2, 2, 2)), cells(), cells(), voxel_size_um=CUBE, name="a"
        ),
        lambda: overlay.projections_png(np.ones((40, 40, 3), np.uint16), CUBE),
    ],
    ids=["losses", "preview", "progress", "overlay", "projections"],
)
def test_nothing_is_cut_off_at_the_edge_of_a_figure(draw):
    image = pixels(draw())[..., :3]
    frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert frame.min() == 255
