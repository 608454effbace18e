import io

import numpy as np
import pytest
from skimage.io import imread

from wnet_nb.events import Preview
from wnet_nb.figures import curves, overlay

HISTORY = [
    {"epoch": n, "soft_ncut": 1 / n, "reconstruction": 300 / n, "total": 2 / n, "changes": ""}
    for n in range(1, 13)
]
CUBE = (1, 1, 1)
HEAD, LEFT = overlay.HEAD_PIXELS, overlay.MARGIN_PIXELS


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


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))


def pixels(figure):
    return imread(io.BytesIO(curves.figure_png(figure)))[..., :3].astype(int)


def outlined(labels, baseline):
    """Return how many pixels of outlines have each of the three colours."""
    figure = overlay.plot_overlay(labels * 0 + 5, labels, baseline, voxel_size_um=CUBE, name="a")
    image = pixels(figure)[overlay.HEAD_PIXELS : -overlay.FOOT_PIXELS]  # without the legend
    counts = []
    for colour in (overlay.SAME_COLOUR, overlay.NETWORK_COLOUR, overlay.BASELINE_COLOUR):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        counts.append(int((np.abs(image - wanted).sum(axis=-1) < 9).sum()))
    return counts


def test_the_preview_shows_image_every_class_and_reconstruction():
    figure = overlay.plot_preview(preview(3), voxel_size_um=(2, 1, 1), title="Epoch 3")
    classes = [f"class {k}: how probable\n(dark 0, yellow 1)" for k in range(3)]
    assert titles(figure) == ["image", *classes, "reconstruction"]
    assert any("µm" in text.get_text() for text in figure.axes[0].texts)


def test_a_preview_without_voxel_size_says_voxels_and_not_micrometres():
    said = words(overlay.plot_preview(preview()))
    assert "voxels" in said and "µm" not in said


def test_cells_of_the_preview_are_counted_and_coloured():
    labels = np.zeros((16, 24, 24), np.int32)
    labels[6:10, 8:14, 8:14] = 1
    figure = overlay.plot_preview(preview(), cells=labels)
    assert titles(figure)[0] == "1 cells in the patch"
    assert len(titles(figure)) == 5
    alpha = figure.axes[0].images[1].get_array()[..., 3]
    assert 0 < np.count_nonzero(alpha) < 0.3 * alpha.size


def test_the_progress_picture_holds_losses_and_preview():
    figure = overlay.plot_progress(HISTORY, preview(), voxel_size_um=CUBE, epochs=50)
    axes = [a for part in figure.subfigs for a in part.axes]
    assert len(axes) == 3 + 4
    assert "12 of 50" in figure.get_suptitle()


def test_the_overlay_counts_the_cells_with_and_without_the_network():
    labels, baseline = cells((2, 2, 2), (2, 16, 16), (12, 2, 20)), cells((2, 2, 2))
    figure = overlay.plot_overlay(labels * 9, labels, baseline, voxel_size_um=(2, 1, 1), name="a")
    assert "a: 3 cells with the network, 1 without" in words(figure)


def test_the_overlay_of_cells_found_without_a_network_compares_with_nothing():
    labels = cells((2, 2, 2))
    figure = overlay.plot_overlay(labels, labels, None, voxel_size_um=CUBE, name="a")
    assert "a: 1 cells" in words(figure) and "network" not in words(figure)


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


def test_outlines_are_two_pixels_wide_and_inside_the_cell():
    labels = np.zeros((20, 20), np.int32)
    labels[4:14, 5:15] = 3
    edges = overlay.find_edges(labels)
    assert edges.sum() == 10 * 10 - 6 * 6 and not edges[labels == 0].any()


def test_touching_cells_are_parted():
    labels = np.zeros((20, 20), np.int32)
    labels[2:18, 2:10], labels[2:18, 10:18] = 1, 2
    assert overlay.find_edges(labels)[10].nonzero()[0].tolist() == [2, 3, 8, 9, 10, 11, 16, 17]


def test_a_constant_image_without_cells_is_drawn():
    none = np.zeros((8, 16, 16), np.int32)
    figure = overlay.plot_overlay(none, none, none, voxel_size_um=CUBE, name="a")
    assert curves.figure_png(figure).startswith(b"\x89PNG")


def test_the_overlay_of_a_large_volume_says_which_part_it_shows():
    labels = np.zeros((8, 1200, 900), np.uint16)
    labels[2:6, 1000:1010, 100:110] = 1
    figure = overlay.plot_overlay(labels, labels, labels, voxel_size_um=CUBE, name="a")
    assert "y 813-1196 of 1200" in words(figure)
    assert "x 0-383 of 900" in words(figure)


def test_a_flat_and_a_narrow_volume_are_drawn_at_true_proportions():
    for shape in ((4, 60, 40), (14, 30, 20)):
        image = np.zeros(shape)
        labels = np.zeros(shape, np.int32)
        figure = overlay.plot_overlay(image, labels, labels, voxel_size_um=(2, 1, 1), name="a")
        canvas = figure.axes[0].images[0].get_array()
        second = HEAD + (canvas[HEAD:, LEFT] < 1).all(axis=1).argmin() + LEFT  # row of XZ and YZ
        height = second - LEFT - HEAD
        width = (canvas[HEAD, LEFT:] < 1).all(axis=1).argmin()
        depth = (canvas[second:, LEFT] < 1).all(axis=1).argmin()
        assert height / width == pytest.approx(shape[1] / shape[2], rel=0.05)
        assert depth / width == pytest.approx(2 * shape[0] / shape[2], rel=0.05)


def test_the_cells_from_three_sides_have_a_scale_bar():
    said = words(overlay.plot_projections(cells((7, 12, 12)), CUBE))
    for word in ("from above", "from the front", "from the right", "5 µm"):
        assert word in said


@pytest.mark.parametrize(
    "draw",
    [
        lambda: curves.plot_losses(HISTORY),
        lambda: overlay.plot_preview(preview(), voxel_size_um=(3, 1, 1), title="Epoch 1"),
        lambda: overlay.plot_progress(HISTORY, preview()),
        lambda: overlay.plot_overlay(
            cells((2, 2, 2)), cells(), cells(), voxel_size_um=CUBE, name="a"
        ),
    ],
    ids=["losses", "preview", "progress", "overlay"],
)
def test_nothing_is_cut_off_at_the_edge_of_a_figure(draw):
    image = pixels(draw())
    frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert frame.min() == 255
