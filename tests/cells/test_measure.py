"""Tests of `wnet_nb.cells.measure`: bodies whose numbers are known by hand."""

import numpy as np
import pytest

from wnet_nb.cells.measure import COLUMNS, measure_cells

UNIT = (1.0, 1.0, 1.0)
WHOLE = {"label", "volume_voxels", "touches_border"}


def ellipsoid(shape, half_axes, centre=None):
    """Return a bool mask; lengths in voxels, in the middle if no centre is given."""
    centre = (np.array(shape) - 1) / 2 if centre is None else np.array(centre)
    grid = np.moveaxis(np.indices(shape), 0, -1) - centre
    return ((grid / half_axes) ** 2).sum(-1) <= 1


def box(shape, *edges):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in edges)] = True
    return mask


def measure(mask, image=None, size=UNIT):
    """Return the row of a single cell."""
    image = np.zeros(mask.shape) if image is None else image
    table = measure_cells(mask.astype(np.int32), image, voxel_size_um=size)
    assert len(table["label"]) == 1
    return {name: column[0] for name, column in table.items()}


def axes_of(row):
    return [row[f"axis_{which}_um"] for which in ("major", "middle", "minor")]


@pytest.fixture
def labels():
    """Two boxes, labelled 3 and 7, of 27 and 8 voxels."""
    return 3 * box((12, 12, 12), (1, 4), (2, 5), (3, 6)).astype(np.uint16) + 7 * box(
        (12, 12, 12), (6, 8), (7, 9), (8, 10)
    )


def test_columns_are_those_of_the_contract_and_name_their_units(labels):
    table = measure_cells(labels, labels, voxel_size_um=UNIT)
    assert tuple(table) == COLUMNS
    lengths = [name for name in COLUMNS if name.startswith(("centroid", "axis", "equivalent"))]
    assert all(name.endswith(("_um", "_voxels")) for name in lengths)
    assert {"volume_voxels", "volume_um3"} <= set(COLUMNS)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "i8"])
def test_labels_of_any_whole_number_type_give_one_row_each_in_order(dtype, labels):
    table = measure_cells(labels.astype(dtype), labels, voxel_size_um=UNIT)
    assert table["label"].tolist() == [3, 7]
    assert table["volume_voxels"].tolist() == [27, 8]


def test_counts_are_whole_numbers_and_the_rest_is_not(labels):
    table = measure_cells(labels, labels.astype(np.uint8), voxel_size_um=UNIT)
    for name, column in table.items():
        assert column.dtype == (np.int64 if name in WHOLE else np.float64), name


def test_centroid_counts_from_the_middle_of_the_first_voxel(labels):
    row = measure(labels == 3, size=(2.0, 0.5, 0.25))
    places = [row[f"centroid_{axis}_voxels"] for axis in "zyx"]
    assert places == [2, 3, 4]
    assert [row[f"centroid_{axis}_um"] for axis in "zyx"] == [4.0, 1.5, 1.0]


def test_volume_is_that_of_the_voxels(labels):
    row = measure(labels == 7, size=(2.0, 0.5, 0.25))
    assert (row["volume_voxels"], row["volume_um3"]) == (8, 2.0)
    assert row["equivalent_diameter_um"] == pytest.approx((12 / np.pi) ** (1 / 3))


def test_ball_has_three_equal_axes_its_volume_and_the_form_of_a_ball():
    row = measure(ellipsoid((21, 21, 21), 6))
    assert axes_of(row) == pytest.approx([12, 12, 12], rel=0.05)
    assert row["volume_um3"] == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.05)
    assert row["equivalent_diameter_um"] == pytest.approx(12, rel=0.02)
    assert row["sphericity"] > 0.95


@pytest.mark.parametrize(
    ("shape", "size"),
    [((33, 25, 17), UNIT), ((13, 25, 17), (3, 1, 1)), ((33, 49, 65), (1, 0.5, 0.25))],
)
def test_axes_of_an_ellipsoid_come_back_in_micrometres(shape, size):
    row = measure(ellipsoid(shape, np.array([14, 9, 5]) / size), size=size)
    assert axes_of(row) == pytest.approx([28, 18, 10], rel=0.05)
    assert row["volume_um3"] == pytest.approx(4 / 3 * np.pi * 14 * 9 * 5, rel=0.05)


def test_axes_do_not_depend_on_where_a_body_points():
    lying = measure(ellipsoid((21, 21, 41), (5, 5, 14)))
    standing = measure(ellipsoid((41, 21, 21), (14, 5, 5)))
    grid = np.moveaxis(np.indices((31, 31, 31)), 0, -1) - 15
    along = grid.sum(-1) / np.sqrt(3)
    across = (grid**2).sum(-1) - along**2
    slanting = measure((along / 14) ** 2 + across / 25 <= 1)
    assert axes_of(lying) == pytest.approx(axes_of(standing))
    assert axes_of(slanting) == pytest.approx(axes_of(standing), rel=0.05)


def test_sphericity_falls_the_longer_a_body_is():
    long = measure(ellipsoid((21, 21, 41), (4, 4, 16)))["sphericity"]
    longer = measure(box((12, 12, 60), (4, 8), (4, 8), (4, 56)))["sphericity"]
    assert longer < long < 0.85


def test_sphericity_of_an_ellipsoid_is_that_of_its_formula():
    half = np.array([12.0, 8.0, 5.0])
    pairs = [(half[a] * half[b]) ** 1.6075 for a, b in ((0, 1), (0, 2), (1, 2))]
    surface = 4 * np.pi * np.mean(pairs) ** (1 / 1.6075)  # Thomsen, within 1.1 %
    expected = np.pi ** (1 / 3) * (8 * np.pi * half.prod()) ** (2 / 3) / surface
    assert measure(ellipsoid((33, 25, 17), half))["sphericity"] == pytest.approx(expected, rel=0.03)


def test_brightness_is_that_of_the_voxels_inside(labels):
    image = np.arange(12**3, dtype=np.uint16).reshape(12, 12, 12)
    row = measure(labels == 3, image)
    inside = image[1:4, 2:5, 3:6].astype(int)
    assert row["mean_intensity"] == inside.mean()
    assert (row["max_intensity"], row["integrated_intensity"]) == (inside.max(), inside.sum())


def test_sum_of_brightness_does_not_overflow_the_type_of_the_image():
    row = measure(np.ones((8, 8, 8), bool), np.full((8, 8, 8), 255, np.uint8))
    assert row["integrated_intensity"] == 255 * 512


@pytest.mark.parametrize("offset", [0, 1000])
def test_contrast_is_the_step_between_a_cell_and_its_surroundings(offset):
    mask = ellipsoid((25, 25, 25), 6)
    row = measure(mask, np.where(mask, 150, 30).astype(np.uint16) + np.uint16(offset))
    assert row["local_contrast"] == pytest.approx(120)


def test_contrast_leaves_out_neighbouring_cells_and_what_is_far():
    left, right = (ellipsoid((17, 17, 33), 5, (8, 8, x)) for x in (10, 21))
    image = np.where(left, 90, np.where(right, 5000, 40))
    image[0] = image[-1] = 9000  # further than 0.3 radii
    table = measure_cells(left + 2 * right.astype(np.int32), image, voxel_size_um=UNIT)
    assert table["local_contrast"].tolist() == pytest.approx([50, 4960])


def test_contrast_without_surroundings_is_unknown():
    assert np.isnan(measure(np.ones((6, 6, 6), bool))["local_contrast"])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_cell_at_any_face_of_the_volume_is_flagged(axis, end):
    mask = np.zeros((9, 10, 11), bool)
    place = [4, 4, 4]
    place[axis] = end
    mask[tuple(place)] = True
    assert measure(mask)["touches_border"] == 1
    assert measure(np.roll(mask, 2 if end == 0 else -2, axis))["touches_border"] == 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_specks_of_few_voxels_have_all_their_numbers(n):
    row = measure(box((7, 7, 7), (3, 4), (3, 4), (2, 2 + n)), np.ones((7, 7, 7)))
    assert np.isfinite(list(row.values())).all()
    edge = np.sqrt(5 / 3)  # the ellipsoid with the moments of a box of edge 1
    assert axes_of(row) == pytest.approx([n * edge, edge, edge])
    assert 0 < row["sphericity"] <= 1


def test_single_plane_of_voxels_has_all_its_numbers():
    row = measure(box((1, 9, 9), (0, 1), (3, 6), (3, 6)))
    assert np.isfinite(list(row.values())).all()


def test_volume_without_cells_gives_empty_columns_of_the_right_type():
    table = measure_cells(np.zeros((4, 4, 4), np.uint16), np.ones((4, 4, 4)), voxel_size_um=UNIT)
    assert {len(column) for column in table.values()} == {0}
    assert table["label"].dtype == np.int64 and table["volume_um3"].dtype == np.float64
