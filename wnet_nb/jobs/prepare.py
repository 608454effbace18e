"""A volume made ready for the network: the cell radius is estimated where it is not given."""

from __future__ import annotations

from wnet_nb.cells.size import CellSize, estimate_cell_radius
from wnet_nb.config import Settings
from wnet_nb.data import Prepared, prepare
from wnet_nb.files.volumes import Volume


def prepare_volume(
    volume: Volume, settings: Settings, *, otherwise_radius_um: float | None = None
) -> tuple[Prepared, CellSize | None]:
    """Return a volume as the network takes it, and its cell size where that was estimated.

    `otherwise_radius_um` is taken where the settings have no radius and the image shows none.
    """
    size, radius = None, settings.cell_radius_um
    if radius is None and (settings.match_cell_size or settings.subtract_background):
        try:
            size = estimate_cell_radius(volume.array, voxel_size_um=volume.voxel_size_um)
            radius = size.radius_um
        except ValueError:  # nothing stands out
            radius = otherwise_radius_um
    prepared = prepare(
        volume.array,
        settings,
        cell_radius_um=radius,
        voxel_size_um=volume.voxel_size_um,
        name=volume.name,
    )
    return prepared, size
