"""What the notebooks use, in one place; every name below is explained where it is made.

========================================================  =========================================
``DataField(path, labels=None)``                          choose and check volumes: ``.inputs``,
                                                          ``.volume``, ``.truth``, ``.options``
``Viewer(array, voxel_size_um=, overlays=None)``          three planes with crosshair and overlays
``SettingsForm(settings, volume)``                        all options: ``.settings``
``Dashboard(inputs, form_or_settings, folder="runs")``    the training panel; ``await .check()``
                                                          tries two steps, ``await .train()``
                                                          returns a `Trained`
``await find_cells(trained, volumes, changes, folder)``   whole volumes with a progress bar; returns
                                                          a list of `Prediction`
``view_cells(prediction, volume)``                        network beside classical in a `Viewer`
``show_scores(predictions, truth)``                       F1 against overlap, or why there is none
``CellTuner(trained, volume)``                            on a crop; ``.changes`` for `find_cells`
``CellTable(prediction, viewer)``                         sortable; a row moves the crosshair
========================================================  =========================================
"""

from wnet_nb.widgets.busy_cell import StopInPlace
from wnet_nb.widgets.cells_panel import CellTable, find_cells, show_scores, view_cells
from wnet_nb.widgets.data_field import DataField
from wnet_nb.widgets.option_form import SettingsForm
from wnet_nb.widgets.training_panel import Dashboard, Trained
from wnet_nb.widgets.tuner import CellTuner
from wnet_nb.widgets.viewer import Viewer

__all__ = [
    "CellTable",
    "CellTuner",
    "Dashboard",
    "DataField",
    "SettingsForm",
    "StopInPlace",
    "Trained",
    "Viewer",
    "find_cells",
    "show_scores",
    "view_cells",
]
