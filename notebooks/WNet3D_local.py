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
# This notebook trains WNet3D, the unsupervised 3D segmentation network of CellSeg3D, on **your own
# stacks**. You draw nothing: the network learns to sort voxels into classes, and the classes become
# separate cells with a table of measurements. The classical result (Voronoi-Otsu) is always shown
# beside it, so that you can see whether the network was worth it.
#
# **How to use it.** Run one cell after the other with Shift+Enter, or all at once with
# *Run > Run All Cells*. As it stands, it works on a built-in example and takes a few minutes on a
# laptop. For your own data, change the field in section 2 and run all again: what you filled in
# stays.
#
# **Which data suits.** Nuclei or cell bodies that are brighter than their surroundings, from
# light-sheet, confocal or two-photon microscopes, as TIFF stacks of at least 64 voxels in each
# axis. A few stacks of one experiment are enough. Crop away large empty parts and very bright large
# ones such as vessels. Dark cells on a bright background: invert the image first.

# %% [markdown]
# ## 1. Set-up
#
# Loads the package; takes some seconds. *Usual mistake:* "No module named wnet_nb" means that the
# notebook was opened with another Python; open it with `bash colab_setup.sh lab`.

# %%
from IPython.display import display

from wnet_nb import config, widgets
from wnet_nb.figures import curves

# %matplotlib inline

# %% [markdown]
# ## 2. Data
#
# Write the path of a TIFF or of a folder of TIFFs into the field; it answers at once what it found,
# and what it left aside and why. `example` is the built-in volume. If somebody has labelled some of
# the volumes by hand, name the folder of labels too: they are only used to compare with.
#
# *Usual mistake:* the voxel size is missing in the file. Then sizes in µm are wrong: set it below
# the field.

# %%
data = widgets.DataField("example", like=globals().get("data"))
data

# %% [markdown]
# Look at the first volume. The sliders move the three planes; **contrast** changes what you see and
# nothing else. Are the cells brighter than what is around them, and is the z-axis as long as it
# should be?

# %%
widgets.Viewer(data.volume.array, voxel_size_um=data.volume.voxel_size_um)

# %% [markdown]
# ## 3. Parameters
#
# The defaults are a good start: the preset `quick` trains a small network in minutes, `published`
# is the network of the publication and wants a GPU. Every option says when to raise and when to
# lower it. The picture shows, on your image, which neighbours a voxel is pulled together with.
#
# *Usual mistake:* `intensity_sigma` below the noise of the image; then only specks count as alike.
# The panel says so.

# %%
settings = config.preset("quick", **data.options)
form = widgets.SettingsForm(settings, data.volume, like=globals().get("form"))
form

# %% [markdown]
# ## 4. Training
#
# The first cell makes the panel, tries two steps and says how long the training will take. The
# second one trains: some minutes for the example. The panel stays alive meanwhile:
#
# - **Soft N-cut** should fall towards 0: the classes become coherent. **Reconstruction** should
#   fall a little. The bar shows how much of the total each makes up. Reconstruction is counted in
#   large numbers and fills most of it; that is a problem only if the soft N-cut does not fall.
# - The **preview** shows one patch as the network sees it, and the cells in it. The order of the
#   classes is arbitrary.
# - **Stop and keep** (or the notebook's interrupt button ■) ends the training after the step that
#   is being taken, and keeps the model. Everything goes on if you close the browser.
#
# *Usual mistakes:* one class for all voxels after several epochs: raise `ncut_weight` or
# `intensity_sigma`, or lower `reconstruction_weight`. Memory full: lower `batch_size` or
# `patch_size` in section 3.

# %%
dashboard = widgets.Dashboard(data.inputs, form, folder="runs")
display(dashboard)
await dashboard.check()

# %%
trained = await dashboard.train()

# %% [markdown]
# ## 5. Quality
#
# What the curves say. If the sentence asks for more epochs, press **Extend** in the panel above and
# run the cell below it again.

# %%
print(trained.advice)
curves.plot_losses(trained.history)

# %% [markdown]
# Now the cells of the first volume, about half a minute for the example. Drag the **curtain**: the
# network's cells are on its left, the classical ones on its right. Where both agree, take either.

# %%
cells = await widgets.find_cells(trained, data.inputs.volumes[:1])
widgets.view_cells(cells[0], data.volume)

# %% [markdown]
# If there are labels, this is how many cells are found, for every overlap that one may ask for.

# %%
widgets.show_scores(cells, data.truth)

# %% [markdown]
# ## 6. Apply
#
# Tune on a crop: cells in pieces: raise `cell_radius_um`; neighbours as one: lower it; too fat or
# too thin: raise or lower `boundary`; specks are counted: raise `minimum_size`.

# %%
tuner = widgets.CellTuner(trained, data.volume)
tuner

# %% [markdown]
# Then apply it to all volumes of a file or folder: those of section 2, if you leave the field as it
# is. Older results are never overwritten.

# %%
target = widgets.DataField(data.path.value, options=data.options)
target

# %%
results = await widgets.find_cells(trained, target.inputs.volumes, tuner.changes)

# %% [markdown]
# The cells one by one. Choose a row, and the crosshair of the viewer goes there.

# %%
viewer = widgets.view_cells(results[0], target.volume)
display(viewer, widgets.CellTable(results[0], viewer))

# %% [markdown]
# ## 7. Save and cite
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
print("report: ", trained.run.resolve() / "report.html")
print("results:", results[0].folder.parent.resolve())
