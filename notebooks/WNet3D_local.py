# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: all
#     notebook_metadata_filter: all
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   language_info:
#     name: python
# ---

# %% [markdown]
# # Cells in 3D microscopy stacks, without labels: WNet3D
#
# This notebook finds the cells in **your own stacks**: you draw nothing. A starter network, which
# has learned what cells look like from simulated ones, finds them at once. If that is not good
# enough, WNet3D, the unsupervised segmentation network of CellSeg3D, is trained on your stack, and
# you see beside each other what each of them finds, and what the same steps find **without a
# network**. So you can tell whether the training was worth it.
#
# **How to use it.** Run one cell after the other with Shift+Enter, or all at once with
# *Run > Run All Cells*. As it stands, it works on a built-in example and takes a few minutes on a
# laptop. For your own data, change the field in section 2 and run all again: what you filled in
# stays, also after a restart.
#
# **Which data suits.** Nuclei or cell bodies that are brighter than their surroundings, from
# light-sheet, confocal or two-photon microscopes, as TIFF stacks of at least 64 voxels in each
# axis. Crop away large empty parts and very bright large ones such as vessels. Dark cells on a
# bright background: invert the image first.

# %% [markdown]
# ## 1. Set-up
#
# Loads the package; takes some seconds. *Usual mistake:* "No module named wnet_nb" means that the
# notebook was opened with another Python; open it with `bash colab_setup.sh lab`.

# %%
from IPython.display import display

import wnet_nb
from wnet_nb import config, widgets

# %% [markdown]
# ## 2. Data
#
# Write the path of a TIFF or of a folder of TIFFs into the field; it offers what lies there, and
# says at once what it found, and what it left aside and why. `example` is the built-in volume. If
# somebody has labelled some of the volumes by hand, name the folder of labels too: they are never
# trained on, and every result below is compared with them.
#
# *Usual mistake:* the voxel size is missing in the file. Then sizes in µm are wrong: set it below
# the field.

# %%
data = widgets.DataField("example")
data

# %% [markdown]
# ## 3. Look at the data
#
# A click or the sliders move the three planes, the mouse wheel goes through them; **contrast**
# changes what you see and nothing else. Are the cells brighter than what is around them, and is the
# z-axis as long as it should be? With **crop**, below, you write the part that is worth working on
# as a TIFF of its own.

# %%
widgets.view_stacks(data.stacks)

# %% [markdown]
# ## 4. Cells at once
#
# Which network finds the cells: `starter`, `none` (the same steps on the image alone), `published`
# (CellSeg3D's), or a run of yours: those in the folder `runs` are listed. With one that is trained
# already, you can go on with section 7.

# %%
network = widgets.ModelField()
network

# %% [markdown]
# The cells of the first volume: some seconds for the example. Drag the **curtain**: on its left
# what the network found, on its right what the same steps find without it.

# %%
cells = await widgets.find_cells(network, data.first)

# %%
widgets.view_cells(cells, data.stacks)

# %% [markdown]
# If there are labels, this is how right it is.

# %%
widgets.show_scores(cells)

# %% [markdown]
# ## 5. Train on your stack (optional)
#
# Worth a try if cells are missing, cut too tight or too wide. The defaults are a good start: the
# preset `quick` adapts the starter network to your stack in minutes, and holds it to what it knows;
# `scratch` trains as small a network from nothing, and `published` is the network of the
# publication and wants a GPU. Every option says when to raise and when to lower it. The tab *Soft
# N-cut* shows, on your image, which neighbours a voxel is pulled together with.
#
# *Usual mistake:* `intensity_sigma` below the noise of the image; then only specks count as alike.
# Section 2 says where an image is noisy.

# %%
settings = config.preset("quick", **data.options)
form = widgets.SettingsForm(settings, data.stack, on_preset=data.judge)
form

# %% [markdown]
# ### The formula itself
#
# What the soft N-cut measures and what it takes. It is computed in `wnet_nb/losses.py`:
# `soft_ncut_loss` leads to `_class_mean_ncut`, where the formula stands, or to `_PairwiseNcut`, if
# `affinity` is `pairwise`.

# %%
from wnet_nb import losses

print(losses.soft_ncut_loss.__doc__)

# %% [markdown]
# The next cell makes the panel, tries two steps and says how long the training will take. The one
# after it trains: some minutes for the example. The panel stays alive meanwhile:
#
# - **Soft N-cut** should fall towards 0: then voxels that are alike and close share a class.
#   **Reconstruction** should fall a little.
# - The **preview** shows one patch as the network sees it, and the cells in it. The order of the
#   classes is arbitrary.
# - **Stop and keep** (or the notebook's interrupt button ■) ends the training after the step that
#   is being taken, and keeps the model; run the cell again to go on. Everything goes on if you
#   close the browser, and is shown when you open the notebook again.
#
# *Usual mistakes:* one class for all voxels after several epochs: raise `ncut_weight` or
# `intensity_sigma`, or lower `reconstruction_weight`. Memory full: lower `batch_size` or
# `patch_size`.

# %%
training = widgets.TrainingPanel(data.stacks, form)
display(training)
await training.check()

# %%
trained = await training.train()

# %% [markdown]
# ## 6. Compare
#
# What the curves say. If the sentence asks for more epochs, press **Extend by** in the panel above,
# and run the cell that trains and those from here again.

# %%
print(training.trained.advice)

# %% [markdown]
# The trained network's cells left of the **curtain**, those of section 4 right of it. Take the
# trained one only if its cells are better, by your eye or by the scores.

# %%
adapted = await widgets.find_cells(training, data.first)

# %%
widgets.view_cells(adapted, data.stacks, beside=cells)

# %%
widgets.show_scores([*cells, *adapted])

# %% [markdown]
# The two networks side by side: cells, scores, the settings that differ, and the training. Name two
# folders, as in `widgets.compare_runs("runs/first", "runs/second")`, to compare two runs.

# %%
widgets.compare_runs(network, training)

# %% [markdown]
# ## 7. Apply
#
# The network that you chose: the one trained last, or any that section 4 lists.

# %%
chosen = widgets.ModelField(widgets.last_trained(), part="chosen")
chosen

# %% [markdown]
# Tune on a crop: cells in pieces: raise `cell_radius_um`; neighbours as one: lower it; too fat or
# too thin: raise or lower `boundary`; specks are counted: raise `minimum_size`; dim texture is
# counted: raise `minimum_contrast`.

# %%
tuner = widgets.CellTuner(chosen, data.stacks)
tuner

# %% [markdown]
# Then apply it to all volumes of a file or folder: those of section 2, if you leave the field as it
# is. Older results are never overwritten.

# %%
target = widgets.DataField(like=data, part="target")
target

# %%
results = await widgets.find_cells(chosen, target.stacks, tuner.changes)

# %% [markdown]
# The cells one by one. Choose a row, and its cell turns white; click a cell, and its row is chosen.
# The buttons below the picture take the cells to Fiji, as outlines for its ROI Manager, and to
# napari, where that is installed.

# %%
widgets.view_cells(results, target.stacks, table=True)

# %%
widgets.show_scores(results)

# %% [markdown]
# ### Volumes larger than memory
#
# A whole brain, as a BigTIFF, a folder of slices or an OME-Zarr, is worked on chunk by chunk by
# several processes. It needs `pip install ".[scale]"` once. Write its path between the first
# quotes; the bar counts chunks, and before the first one it says what it will take. The result is
# an OME-Zarr for napari with a table of cells. If it is broken off, run the cell again: it goes on.

# %%
brain = ""  # such as "brain.ome.zarr"; nothing is done while it is empty
if brain:
    cells = wnet_nb.segment_large(
        chosen.source, brain, "brain_cells.zarr", observe=widgets.ChunkBar()
    )
    print(cells.facts["count"], "cells in", cells.folder)

# %% [markdown]
# ## 8. Save and cite
#
# Everything is saved already, in the folder that is printed below. Open `report.html` first: cells,
# pictures, sizes, settings and how to repeat it, on one page. `settings.json` replays the run,
# `weights.safetensors` is the network, `predictions/` holds for every volume `labels.tif` (opens in
# Fiji and napari), `cells.csv` and `overlay.png`. Copy the folder to keep it.
#
# If you use the results, please cite:
#
# - Xia X, Kulis B. *W-Net: A Deep Model for Fully Unsupervised Image Segmentation.*
#   arXiv:1711.08506 (2017).
# - Achard C, Kousi T, Frey M, et al. *CellSeg3D, self-supervised 3D cell segmentation for
#   fluorescence microscopy.* eLife 13:RP99848 (2024), doi:10.7554/eLife.99848.
# - von Chamier L, Laine RF, Jukkala J, et al. *Democratising deep learning for microscopy with
#   ZeroCostDL4Mic.* Nature Communications 12:2276 (2021).

# %%
print("results:", results[0].folder.parents[1].resolve())

# %% [markdown]
# **If *Run All* brought you here**, this is where to look: [your files](#2.-Data),
# [the cells at once](#4.-Cells-at-once), [what the training changed](#6.-Compare), with the
# training above it, and [the cells of all volumes, one by one](#7.-Apply).
