"""What the notebooks use, in one place; every name is explained where it is made."""

from wnet_nb.widgets.cells_panel import ChunkBar, find_cells, show_scores, view_cells
from wnet_nb.widgets.data_field import DataField
from wnet_nb.widgets.model_field import ModelField
from wnet_nb.widgets.option_form import SettingsForm
from wnet_nb.widgets.run_table import compare_runs
from wnet_nb.widgets.stacks_panel import view_stacks
from wnet_nb.widgets.training_panel import Trained, TrainingPanel, last_trained
from wnet_nb.widgets.tuner import CellTuner
from wnet_nb.widgets.viewer import Viewer
