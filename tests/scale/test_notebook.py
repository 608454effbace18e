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
    bar = widgets.ChunkBar()
    monkeypatch.setattr(widgets, "ChunkBar", lambda: bar)
    names = {"wnet_nb": wnet_nb, "widgets": widgets, "chosen": SimpleNamespace(source="none")}
    exec(cell, names)
    assert "cells" not in names  # as the cell stands, it does nothing
    exec(cell.replace('brain = ""', f"brain = {str(nuclei[0])!r}"), names)
    assert f"{whole.facts['count']} cells in brain_cells.zarr" in capsys.readouterr().out
    assert bar.bar.value == bar.bar.max and "dashboard of the" in bar.said.value
    assert re.search(r"measurements: (\d+) of \1 chunks", bar.now.value)
