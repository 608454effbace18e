"""What the notebooks use, in one place; every name below is explained where it is made.

==================================================  =============================================
``DataField(path, labels=None)``                    choose and check volumes: ``.stacks``,
                                                    ``.stack``, ``.options``
``view_stacks(stacks)``                             three planes of each volume, with its truth
``ModelField()``                                    choose a network or a run: ``.source``
``await find_cells(network, stacks, changes)``      whole volumes; returns a list of `Result`
``view_cells(results, stacks, beside=, table=)``    cells beside those without the network
``show_scores(results)``                            F1 and Dice, or why there are none
``SettingsForm(settings, stack)``                   all options: ``.settings``
``open_training(stacks, form, folder="runs")``      ``await .check()`` tries two steps,
                                                    ``await .train()`` returns a `Trained`
``last_trained()``                                  the run trained in this kernel
``CellTuner(network, stacks)``                      on a crop; ``.changes`` for `find_cells`
==================================================  =============================================
"""

from wnet_nb.widgets.busy_cell import StopInPlace
from wnet_nb.widgets.cells_panel import find_cells, show_scores, view_cells
from wnet_nb.widgets.data_field import DataField
from wnet_nb.widgets.model_field import ModelField
from wnet_nb.widgets.option_form import SettingsForm
from wnet_nb.widgets.training_panel import Trained, TrainingPanel, last_trained, open_training
from wnet_nb.widgets.tuner import CellTuner
from wnet_nb.widgets.viewer import Viewer, view_stacks

__all__ = [
    "CellTuner",
    "DataField",
    "ModelField",
    "SettingsForm",
    "StopInPlace",
    "Trained",
    "TrainingPanel",
    "Viewer",
    "find_cells",
    "last_trained",
    "open_training",
    "show_scores",
    "view_cells",
    "view_stacks",
]
