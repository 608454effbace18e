import numpy as np
import pytest

from wnet_nb.cells.scores import match_instances
from wnet_nb.figures import curves

EPOCHS = range(1, 13)


def history(changes=(), **columns):
    return [
        {
            "epoch": n,
            "step": 4 * n,
            "soft_ncut": 1 / n,
            "reconstruction": 300 / n**0.5,
            "total": 2 / n**0.5,
            "changes": "step 9: radius=3" if n in changes else "",
        }
        | {name: values[n - 1] for name, values in columns.items()}
        for n in EPOCHS
    ]


def cells(*starts):
    labels = np.zeros((20, 30, 30), np.int32)
    for n, (z, y, x) in enumerate(starts, start=1):
        labels[z : z + 6, y : y + 6, x : x + 6] = n
    return labels


def test_each_loss_has_its_curve_with_the_values_of_the_history():
    figure = curves.plot_losses(history())
    for axes, name in zip(figure.axes, ("soft_ncut", "reconstruction", "total"), strict=True):
        x, y = axes.lines[0].get_data()
        assert list(x) == list(EPOCHS)
        assert list(y) == [row[name] for row in history()]
        assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title()


def test_the_losses_stand_in_two_rows_so_that_they_can_be_read_on_a_narrow_page():
    figure = curves.plot_losses(history())
    assert len({axes.get_subplotspec().rowspan for axes in figure.axes}) == 2
    assert figure.get_size_inches()[0] * figure.dpi <= 720


def test_a_change_of_options_is_marked_at_its_epoch():
    axes = curves.plot_losses(history(changes=(4, 9))).axes[0]
    assert [line.get_xdata()[0] for line in axes.lines[1:]] == [4, 9]
    assert axes.get_legend() is not None


@pytest.mark.parametrize("log", [False, True])
def test_an_empty_history_and_one_epoch_are_drawn_too(log):
    for rows in ([], history()[:1]):
        assert curves.figure_png(curves.plot_losses(rows, log=log)).startswith(b"\x89PNG")


def test_logarithmic_axes_are_logarithmic():
    figure = curves.plot_losses(history(), log=True)
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}


def test_of_itself_only_a_curve_that_falls_more_than_tenfold_is_logarithmic_and_says_so():
    figure = curves.plot_losses(history())
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear"]
    assert "logarithmic" in figure.axes[0].get_ylabel()


def test_a_loss_that_reaches_zero_is_drawn_on_a_linear_axis():
    figure = curves.plot_losses(history(soft_ncut=[1.0] + [0.0] * 11), log=True)
    assert figure.axes[0].get_yscale() == "linear"


def test_scores_are_drawn_against_overlap_with_and_without_the_network():
    truth = cells((2, 2, 2), (2, 16, 16))
    both = [match_instances(found, truth) for found in (truth, cells((2, 2, 2)))]
    figure = curves.plot_scores(*both)
    for line, wanted in zip(figure.axes[0].lines, both, strict=False):
        assert list(line.get_xdata()) == list(wanted.thresholds)
        assert list(line.get_ydata()) == list(wanted.f1)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [
        "network: 2 cells, F1 1.00 at IoU 0.5",
        "without network: 1 cells, F1 0.67 at IoU 0.5",
    ]
    assert len(curves.plot_scores(both[0]).legends[0].get_texts()) == 1


def test_the_figure_of_the_scores_is_at_most_600_pixels_wide():
    figure = curves.plot_scores(match_instances(cells((2, 2, 2)), cells((2, 2, 2))))
    assert figure.get_size_inches()[0] * figure.dpi <= 600


def test_sizes_are_counted_and_the_smallest_that_is_kept_is_marked():
    axes = curves.plot_sizes([10.0, 20.0, 20.5, 40.0], 5.0).axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 4
    assert axes.lines[0].get_xdata()[0] == 5.0


def test_the_affinity_is_the_product_of_its_terms_and_the_voxel_is_marked():
    random = np.random.default_rng(0)
    intensity, spatial = random.random((2, 9, 11))
    figure = curves.plot_affinity(
        100 * intensity, intensity, spatial, point=(24, 35), corner=(20, 30)
    )
    shown = figure.axes[3].images[0]
    np.testing.assert_allclose(shown.get_array(), intensity * spatial)
    assert shown.get_extent() == [29.5, 40.5, 28.5, 19.5]
    assert figure.axes[3].lines[0].get_xydata().tolist() == [[35, 24]]


def test_figures_leave_no_trace_in_pyplot():
    from matplotlib import _pylab_helpers

    curves.plot_losses(history())
    assert _pylab_helpers.Gcf.get_all_fig_managers() == []
