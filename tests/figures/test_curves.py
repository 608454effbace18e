import numpy as np

from wnet_nb.cells.scores import match_instances
from wnet_nb.config import preset
from wnet_nb.figures import curves

EPOCHS = range(1, 13)
QUICK = preset("scratch")


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
    assert [line.get_xdata()[0] for line in axes.lines[2:]] == [4, 9]
    assert [text.get_text().strip() for text in axes.texts] == ["1", "2"]
    assert "dotted: options changed" in axes.get_xlabel()


def test_an_empty_history_and_one_epoch_are_drawn_too():
    for rows in ([], history()[:1]):
        assert curves.figure_png(curves.plot_losses(rows)).startswith(b"\x89PNG")


def test_epochs_are_counted_in_whole_numbers_also_where_there_are_none_yet():
    for rows in ([], history()[:1], history()):
        for axes in curves.plot_losses(rows).axes:
            assert all(place == round(place) for place in axes.get_xticks())


def test_of_itself_only_a_curve_that_falls_more_than_tenfold_is_logarithmic_and_says_so():
    figure = curves.plot_losses(history())
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear"]
    assert "logarithmic" in figure.axes[0].get_ylabel()


def test_a_loss_that_reaches_zero_is_drawn_on_a_linear_axis():
    figure = curves.plot_losses(history(soft_ncut=[1.0] + [0.0] * 11))
    assert figure.axes[0].get_yscale() == "linear"


def test_scores_are_drawn_against_overlap_with_and_without_the_network():
    truth = cells((2, 2, 2), (2, 16, 16))
    both = [match_instances(found, truth) for found in (truth, cells((2, 2, 2)))]
    figure = curves.plot_scores(*both, title="a")
    for line, wanted in zip(figure.axes[0].lines, both, strict=False):
        assert list(line.get_xdata()) == list(wanted.thresholds)
        assert list(line.get_ydata()) == list(wanted.f1)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [
        "network: 2 cells, F1 1.00 at IoU 0.5",
        "without network: 1 cells, F1 0.67 at IoU 0.5",
    ]
    assert len(curves.plot_scores(both[0], None, title="a").legends[0].get_texts()) == 1


def test_the_figure_of_the_scores_is_at_most_600_pixels_wide():
    figure = curves.plot_scores(
        match_instances(cells((2, 2, 2)), cells((2, 2, 2))), None, title="a"
    )
    assert figure.get_size_inches()[0] * figure.dpi <= 600


def test_sizes_are_counted_and_the_smallest_that_is_kept_is_marked():
    axes = curves.plot_sizes([10.0, 20.0, 20.5, 40.0], 5.0).axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 4
    assert axes.lines[0].get_xdata()[0] == 5.0


def test_figures_leave_no_trace_in_pyplot():
    from matplotlib import _pylab_helpers

    curves.plot_losses(history())
    assert _pylab_helpers.Gcf.get_all_fig_managers() == []


def rows(ncut, reconstruction):
    return [
        {"soft_ncut": a, "reconstruction": b} for a, b in zip(ncut, reconstruction, strict=True)
    ]


def test_falling_curves_ask_for_more_epochs():
    said = curves.read_losses(rows(np.linspace(1, 0.2, 20), np.linspace(300, 100, 20)), QUICK)
    assert "still falls" in said[0]


def test_a_soft_ncut_near_its_best_asks_for_nothing_though_it_still_falls():
    said = curves.read_losses(rows([0.37, 0.1, 0.05, 0.04, 0.034, 0.027], np.full(6, 500)), QUICK)
    assert len(said) == 1 and "come down to 0.027" in said[0]


def test_flat_curves_say_so():
    said = curves.read_losses(rows(np.full(20, 0.2), np.full(20, 100.0)), QUICK)
    assert "flat" in said[0] and len(said) == 1


def test_classes_that_never_parted_are_noticed():
    said = " ".join(curves.read_losses(rows(np.full(20, 0.99), np.full(20, 100.0)), QUICK))
    assert "without any separation" in said
    three = QUICK.replace(n_classes=3)
    said = " ".join(curves.read_losses(rows(np.full(20, 0.99), np.full(20, 100.0)), three))
    assert "without any separation" not in said


def test_a_reconstruction_that_got_worse_is_noticed():
    said = curves.read_losses(rows(np.full(20, 0.2), np.linspace(100, 300, 20)), QUICK)
    assert any("got worse" in sentence for sentence in said)


def test_the_curves_of_a_good_run_ask_for_nothing():
    ncut = 0.02 + 0.6 * np.exp(-np.arange(15) / 2) + 0.003 * (-1.0) ** np.arange(15)
    said = curves.read_losses(rows(ncut, np.linspace(200, 118, 15)), QUICK)
    assert len(said) == 1 and "flat" in said[0]


def test_two_epochs_are_too_few_to_read():
    assert "too few" in curves.read_losses(rows([1, 1], [1, 1]), QUICK)[0]
