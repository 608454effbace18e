import re
from pathlib import Path
from types import SimpleNamespace

import wnet_nb
from wnet_nb import widgets

ROOT = Path(__file__).resolve().parents[2]


def test_the_notebook_segments_a_large_volume_on_a_local_cluster(
    nuclei, whole, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "notebooks" / "WNet3D_local.py").read_text(encoding="utf-8")
    (cell,) = [one for one in re.split(r"# %%.*\n", text) if "segment_large" in one]
    names = {"wnet_nb": wnet_nb, "widgets": widgets, "chosen": SimpleNamespace(source="none")}
    exec(cell, names)
    assert "cells" not in names  # as the cell stands, it does nothing
    exec(cell.replace('brain = ""', f"brain = {str(nuclei[0])!r}"), names)
    said = capsys.readouterr()
    assert f"{whole.facts['count']} cells in brain_cells.zarr" in said.out
    assert "dashboard of the" in said.out
    assert re.search(r"measurements: 100%.* (\d+)/\1 ", said.err)
