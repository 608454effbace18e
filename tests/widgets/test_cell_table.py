import csv

import numpy as np
import pytest

from wnet_nb import widgets
from wnet_nb.files.result import Result
from wnet_nb.jobs.segment import segment
from wnet_nb.widgets.cell_table import CellTable


@pytest.fixture
def result(stacks, tmp_path):
    (found,) = segment("none", stacks, out=tmp_path / "predictions", cell_radius_um=4.0)
    return found


def test_it_sorts_and_its_row_chooses_the_cell_in_the_viewer(result, stacks):
    viewer = widgets.Viewer(
        stacks[0].array, voxel_size_um=(2, 1, 1), overlays={"cells": result.labels()}
    )
    table = CellTable(result, viewer, "cells")
    table.by.value, table.down.value = "volume_um3", True
    sizes = [next(r for r in table.rows if r["label"] == n)["volume_um3"]
             for _, n in table.table.options]  # fmt: skip
    assert sizes == sorted(sizes, reverse=True)
    table.table.index = 2
    row = next(r for r in table.rows if r["label"] == table.table.value)
    assert viewer.chosen == ("cells", row["label"])
    assert viewer.point == tuple(round(row[f"centroid_{a}_voxels"]) for a in "zyx")


def test_no_cell_is_chosen_before_the_user_does_and_sorting_moves_nothing(result, stacks):
    cells = {"cells": result.labels(), "more": result.labels()}
    viewer = widgets.Viewer(stacks[0].array, voxel_size_um=(2, 1, 1), overlays=cells)
    point, moved = viewer.point, []
    table = CellTable(result, viewer, "cells")
    assert (viewer.chosen, viewer.point, viewer.curtain.value) == (("", 0), point, 0.5)
    table.table.index = 2
    chosen = viewer.chosen
    viewer.z.observe(moved.append, "value")
    table.down.value = True
    assert ("cells", table.table.value) == viewer.chosen == chosen and not moved


def test_clicking_a_cell_chooses_its_row_and_leaves_the_cross_where_it_was(result, stacks):
    labels = result.labels()
    viewer = widgets.Viewer(stacks[0].array, voxel_size_um=(2, 1, 1), overlays={"cells": labels})
    table = CellTable(result, viewer, "cells")
    viewer.point = np.argwhere(labels == 3)[0]
    point = viewer.point
    viewer.choose("cells", 3)
    viewer.on_cell("cells", 3)
    assert table.table.value == 3 and viewer.point == point
    viewer.on_cell("another", 1)
    assert table.table.value == 3


def test_a_table_that_a_spreadsheet_has_saved_again_is_read(result, stacks):
    path = result.folder / "cells.csv"
    with path.open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    path.write_text("\n".join(";".join(f.replace(".", ",") for f in row) for row in rows))
    overlays = {"cells": result.labels()}
    viewer = widgets.Viewer(stacks[0].array, voxel_size_um=(2, 1, 1), overlays=overlays)
    assert len(CellTable(Result(result.folder), viewer, "cells").table.options) == len(rows) - 1


def test_it_names_the_file_that_has_all_columns(result, stacks):
    table = widgets.view_cells([result], stacks, table=True).shown.children[1]
    assert str(result.folder / "cells.csv") in table.children[-2].value


def test_it_is_said_where_the_size_of_the_voxels_was_assumed(result, stacks):
    viewer = widgets.Viewer(
        stacks[0].array, voxel_size_um=(1, 1, 1), overlays={"cells": result.labels()}
    )
    assert "assumed" not in CellTable(result, viewer, "cells").children[3].value
    result.facts["voxel_size_source"] = "assumed"
    assert "assumed" in CellTable(result, viewer, "cells").children[3].value
