import io

import numpy as np
import pytest
from skimage.io import imread

from wnet_nb.cells import scores as metrics
from wnet_nb.events import Preview
from wnet_nb.figures import plots

EPOCHS = range(1, 13)


def history(changes=()):
    return [
        {
            "epoch": n,
            "step": 4 * n,
            "soft_ncut": 1 / n,
            "reconstruction": 300 / n,
            "total": 2 / n,
            "learning_rate": 1e-3,
            "seconds": 1.0,
            "peak_memory_mb": 500,
            "changes": "step 9: radius=3" if n in changes else "",
        }
        for n in EPOCHS
    ]


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


def pixels(figure):
    return imread(io.BytesIO(plots.figure_png(figure)))[..., :3].astype(int)


def count_colour(image, colour):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(image - wanted).sum(axis=-1) < 30).sum())


def test_each_loss_has_its_curve_with_the_values_of_the_history():
    figure = plots.plot_losses(history())
    for axes, name in zip(figure.axes, ("soft_ncut", "reconstruction", "total"), strict=True):
        x, y = axes.lines[0].get_data()
        assert list(x) == list(EPOCHS)
        assert list(y) == [row[name] for row in history()]
        assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title()


def test_a_change_of_options_is_marked_at_its_epoch():
    axes = plots.plot_losses(history(changes=(4, 9))).axes[0]
    assert [line.get_xdata()[0] for line in axes.lines[1:]] == [4, 9]
    assert axes.get_legend() is not None


@pytest.mark.parametrize("log", [False, True])
def test_an_empty_history_and_one_epoch_are_drawn_too(log):
    for rows in ([], history()[:1]):
        assert plots.figure_png(plots.plot_losses(rows, log=log)).startswith(b"\x89PNG")


def test_the_logarithmic_axis_is_logarithmic():
    figure = plots.plot_losses(history(), log=True)
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}


def test_the_preview_shows_input_every_class_and_reconstruction():
    figure = plots.plot_preview(preview(3), voxel_size_um=(2, 1, 1), title="Epoch 3")
    words = " ".join(titles(figure))
    for word in ("input", "class 0", "class 1", "class 2", "reconstruction"):
        assert word in words
    assert any("µm" in text.get_text() for text in figure.axes[0].texts)


def test_a_preview_without_voxel_size_says_voxels_and_not_micrometres():
    words = [text.get_text() for text in plots.plot_preview(preview()).axes[0].texts]
    assert any("voxels" in word for word in words)
    assert not any("µm" in word for word in words)


def test_the_progress_picture_holds_losses_and_preview():
    figure = plots.plot_progress(history(), preview(), voxel_size_um=(1, 1, 1), epochs=50)
    axes = [a for part in figure.subfigs for a in part.axes]
    assert len(axes) == 3 + 4
    assert "12 of 50" in figure.get_suptitle()


def test_the_overlay_counts_both_results_in_words():
    labels, classical = cells((2, 2, 2), (2, 16, 16), (12, 2, 20)), cells((2, 2, 2))
    image = labels * 100 + 5
    figure = plots.plot_overlay(image, labels, classical, voxel_size_um=(2, 1, 1), name="a")
    assert titles(figure)[1:] == ["network: 3 cells", "classical (Voronoi-Otsu): 1 cells"]
    assert figure.get_suptitle().startswith("a: planes at z =")


def test_outlines_appear_in_their_own_colour_and_only_where_there_are_cells():
    labels, none = cells((7, 12, 12)), np.zeros((20, 30, 30), np.int32)
    image = labels * 100 + 5
    both = pixels(plots.plot_overlay(image, labels, labels, voxel_size_um=(1, 1, 1)))
    one = pixels(plots.plot_overlay(image, labels, none, voxel_size_um=(1, 1, 1)))
    for colour in (plots.NETWORK_COLOUR, plots.BASELINE_COLOUR):
        assert count_colour(both, colour) > 500
    assert count_colour(one, plots.NETWORK_COLOUR) > 500
    assert count_colour(one, plots.BASELINE_COLOUR) == 0


def test_a_constant_image_without_cells_is_drawn():
    none = np.zeros((8, 16, 16), np.int32)
    figure = plots.plot_overlay(none, none, none, voxel_size_um=(1, 1, 1))
    assert plots.figure_png(figure).startswith(b"\x89PNG")


def test_the_overlay_of_a_large_volume_says_which_part_it_shows():
    shape = (12, 1200, 900)
    image, labels = np.zeros(shape, np.uint8), np.zeros(shape, np.uint16)
    labels[4:8, 1000:1010, 30:40] = 1
    figure = plots.plot_overlay(image, labels, labels, voxel_size_um=(1, 1, 1))
    assert "y 813-1196 of 1200" in figure.get_suptitle()
    assert "x 0-383 of 900" in figure.get_suptitle()


def test_scores_are_drawn_against_overlap_for_both():
    truth = cells((2, 2, 2), (2, 16, 16))
    scores, classical = (metrics.match_instances(a, truth) for a in (truth, cells((2, 2, 2))))
    axes = plots.plot_scores(scores, classical).axes[0]
    for line, wanted in zip(axes.lines, (scores, classical), strict=True):
        assert list(line.get_xdata()) == list(wanted.thresholds)
        assert list(line.get_ydata()) == list(wanted.f1)
    assert len(plots.plot_scores(scores).axes[0].lines) == 1


def test_figures_leave_no_trace_in_pyplot():
    from matplotlib import _pylab_helpers

    plots.plot_losses(history())
    assert _pylab_helpers.Gcf.get_all_fig_managers() == []


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plot_losses(history(changes=(3,))),
        lambda: plots.plot_preview(preview(), voxel_size_um=(3, 1, 1), title="Epoch 1"),
        lambda: plots.plot_progress(history(), preview()),
        lambda: plots.plot_overlay(cells((2, 2, 2)), cells(), cells(), voxel_size_um=(1, 1, 1)),
    ],
    ids=["losses", "preview", "progress", "overlay"],
)
def test_nothing_is_cut_off_at_the_edge_of_a_figure(draw):
    image = pixels(draw())
    frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert frame.min() == 255
