# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     provenance: []
#     toc_visible: true
#   jupytext:
#     cell_metadata_filter: all
#     notebook_metadata_filter: all
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # WNet3D: cells in 3D, without labels
#
# This notebook trains a network on your own 3D microscopy stacks **without any drawing of cells**,
# and turns its result into separate, measured cells. It follows the order and the numbers of
# [ZeroCostDL4Mic](https://github.com/HenriquesLab/ZeroCostDL4Mic). You need a Google account and a
# browser; nothing is installed on your computer.
#
# # 0. Before you start
#
# **How to use it.** Each grey box is a *cell*: fill in its fields, then press its play button (▶)
# and wait until the button is back. Go from top to bottom.
#
# | You want to | Run |
# |---|---|
# | try it on the built-in example | everything: Runtime → Run all |
# | train on your own stacks | sections 1 to 4, then 5 to 7 |
# | find cells with a network that you trained before | sections 1, 2 and 6, then 7 |
# | go on where Colab stopped you | sections 1 to 3 as before, then 4 with the box in 4.2 ticked |
#
# **Which images work.** Bright nuclei or cell bodies on a darker background, from light-sheet,
# confocal or two-photon microscopes, as TIFF files with at least 64 voxels along each edge.
#
# **What to avoid.** Crop away large empty parts and very bright large regions (vessels, the edge
# of the sample). Invert images with dark cells. Membranes and fibres do not work. A few overexposed
# points, uneven light and some noise do no harm.
#
# **No labels are needed.** If you have some for one stack, they are only used to score the result.

# %% [markdown]
# # 1. Install WNet3D
#
# Gets the program ready. Colab brings nearly everything, so this takes **less than a minute**.
#
# *Field:* leave it empty if the folder or zip `wnet_nb` lies in the Files panel on the left, or in
# My Drive (then click the Drive symbol of the Files panel first). Otherwise paste the address of a
# git repository (ending in `.git`), of a zip, or a shared Drive link to the zip.
#
# *Usual mistake:* skipping this cell after a break. Colab forgets what was installed.

# %% cellView="form"
# @title 1. Install { display-mode: "form" }
package = ""  # @param {type:"string"}
import glob, importlib.util, re, shutil, subprocess, sys  # noqa: E401, I001

if getattr(importlib.util.find_spec("wnet_nb"), "origin", None) is None:
    setup = glob.glob("../colab_setup.sh") + glob.glob("*/colab_setup.sh")
    setup += glob.glob("drive/MyDrive/*/colab_setup.sh")
    zips = glob.glob("wnet_nb*.zip") + glob.glob("drive/MyDrive/wnet_nb*.zip")
    if package and not setup + zips:
        file = re.sub(r".*google.*?([-\w]{25,}).*", r"https://drive.google.com/uc?id=\1", package)
        git = ["git", "clone", "--depth=1", package, "wnet_nb_source"]
        gdown = [sys.executable, "-m", "gdown", file, "-O", "wnet_nb.zip"]
        subprocess.run(git if package.endswith(".git") else gdown, check=True)
    if not setup and (zips := zips or glob.glob("wnet_nb.zip")):
        shutil.unpack_archive(zips[0], "wnet_nb_source")
    setup += glob.glob("wnet_nb_source/**/colab_setup.sh", recursive=True)
    assert setup, "wnet_nb was not found: upload its zip in the Files panel, or fill in the field"
    subprocess.run(["bash", setup[0]], check=True)

# %% [markdown]
# # 2. Initialise the Colab session
#
# Looks for a GPU, the part that makes training fast, and connects your Google Drive if you want
# it. Takes **seconds**.
#
# - **2.1 GPU.** If it says there is none: Runtime → Change runtime type → T4 GPU, and begin again
#   with section 1. Without a GPU, choose the preset `quick` in section 3.1.
# - **2.2 Google Drive.** Tick the box to read stacks from Drive and to keep results there. Google
#   asks for your permission in one window.
#
# *Usual mistake:* a long training without Drive. What is only on Colab's disk is lost when the
# session ends.

# %% cellView="form"
# @title 2. GPU and Google Drive { display-mode: "form" }
use_google_drive = False  # @param {type:"boolean"}
from IPython.display import Image, display

from wnet_nb import config, widgets
from wnet_nb.colab import quality
from wnet_nb.colab.session import Session, describe_runtime
from wnet_nb.figures import curves

session = Session(use_google_drive)
print(describe_runtime(), session, "", quality.version_log(), sep="\n")

# %% [markdown]
# # 3. Select your data and parameters
#
# ## 3.1 Main training parameters: your stacks
#
# Reads your stacks and says at once what it found and what is unsuitable. Stacks on Drive are first
# copied to Colab's own disk, which is much faster: **about a minute per gigabyte**, once.
#
# - *example volume*: made by the program, with known true cells. Good for a first try.
# - *own folder*: a folder of TIFFs, or one TIFF. In the Files panel on the left, right-click it,
#   choose Copy path, and paste it into `folder`.
# - *Drive link*: a shared link to one TIFF, or to a zip of TIFFs or of a folder of them.
# - `labels`: leave it empty, or give a folder with labels named like the stacks. They only
#   score the result.
#
# *Usual mistake:* images and labels in one folder. Keep them in two.

# %% cellView="form"
# @title 3.1 Main training parameters: your stacks { display-mode: "form" }
data_source = "example volume"  # @param ["example volume", "own folder", "Drive link"]
folder = ""  # @param {type:"string"}
drive_link = ""  # @param {type:"string"}
labels = ""  # @param {type:"string"}
data = session.choose_data(data_source, folder, drive_link, labels)
data

# %% [markdown]
# ## 3.1 Main training parameters: the training
#
# Says how the network is trained. Takes **no time**.
#
# - `preset`: *published* is the network of the publication and wants a GPU; *quick* adapts a small
#   one that knows simulated cells, in minutes on any computer; *scratch* trains as small a one from
#   nothing.
# - `use_the_preset`: leave it ticked to take all values of the preset, which are printed (with
#   *published*, these are the published defaults). Untick it to use the values of the fields:
#   `n_classes` kinds of voxels, `epochs` rounds of training, `batch_size` pieces at a time, pieces
#   of `patch_size` voxels, `patches_per_volume` pieces per stack and round, `learning_rate` for the
#   size of a step.
#
# *Usual mistake:* changing many things at once. Begin with a preset.

# %% cellView="form"
# @title 3.1 Main training parameters: the training { display-mode: "form" }
preset = "published"  # @param ["published", "quick", "scratch"]
use_the_preset = True  # @param {type:"boolean"}
n_classes = 2  # @param {type:"integer"}
epochs = 50  # @param {type:"integer"}
batch_size = 4  # @param {type:"integer"}
patch_size = 64  # @param {type:"integer"}
patches_per_volume = 20  # @param {type:"integer"}
learning_rate = 2e-5  # @param {type:"number"}
fields = dict(n_classes=n_classes, epochs=epochs, batch_size=batch_size, patch_size=patch_size)
fields |= dict(patches_per_volume=patches_per_volume, learning_rate=learning_rate)
chosen = {} if use_the_preset else fields
main_settings = config.preset(preset, **chosen, **data.options)
shown = [*fields, *config.names_with("slider")]
print(*(f"{n} = {getattr(main_settings, n)}" for n in shown), sep="\n")

# %% [markdown]
# ## 3.2 Data augmentation
#
# Turns and flips the pieces at random, so that few stacks go further. Leave it ticked. Takes **no
# time**. *Usual mistake:* using it where the direction matters, as in tissue with an up and a down.

# %% cellView="form"
# @title 3.2 Data augmentation { display-mode: "form" }
augmentation = True  # @param {type:"boolean"}
settings = main_settings.replace(augmentation=augmentation)

# %% [markdown]
# ## 3.3 Using weights from a pre-trained model
#
# Begins with a network that was trained before, which saves time if its images were like yours.
# Leave it empty to begin anew; else give an earlier run's folder, a `.safetensors` file, a `.pth`
# file of CellSeg3D, or a word: `starter` (comes with the program) or `published` (fetched from the
# web). Takes **seconds**. The learning
# rate is made ten times lower, so that the network does not forget what it knows.
#
# *Usual mistake:* a network of another size. The cell says so; take the preset it was trained with.

# %% cellView="form"
# @title 3.3 Using weights from a pre-trained model { display-mode: "form" }
start_from = ""  # @param {type:"string"}
start_settings = session.start_from(settings, start_from)

# %% [markdown]
# ## 3.4 Sliders for the losses
#
# The network learns from two wishes. The *soft N-cut* wants voxels that look alike and lie close
# together in one class. The *reconstruction* wants the image to be recognisable from the classes.
# The picture shows which neighbours count as alike, on your own image, while you move a slider.
# Each slider says when to raise and when to lower it. Takes **no time**; leave them as they are at
# first.
#
# *Usual mistake:* a noisy image with `intensity_sigma` 1. Raise it to 10.

# %%
form = widgets.SettingsForm(start_settings, data.stack, on_preset=data.judge)
form

# %% [markdown]
# ### The formula itself
#
# What the soft N-cut measures and what it takes. It is computed in `wnet_nb/losses.py`:
# `soft_ncut_loss` leads to `_class_mean_ncut`, where the formula stands, or to `_PairwiseNcut`, if
# `affinity` is `pairwise`. Takes **no time**.

# %%
from wnet_nb import losses

print(losses.soft_ncut_loss.__doc__)

# %% [markdown]
# # 4. Train the network
#
# ## 4.1 Look at the data and the settings
#
# Shows the first stack in three planes; a click or the sliders move the cross. Can you see the
# cells? What you cannot see, the network will not find. With *crop*, below the planes, you write
# the part that is worth working on as a TIFF, whose path you then give in section 3.1. Takes
# **seconds**.

# %%
widgets.view_stacks(data.stacks)

# %% [markdown]
# ## 4.2 New training, or continue where Colab dropped you
#
# Opens a new training under `run_name`, tries two steps, and says how long it will take. Takes
# **a minute at most**.
#
# **Continue where Colab dropped you:** run sections 1 to 3 as before, with the same stacks, then
# tick `continue_newest_run`. It takes the newest training, from this session or from Drive, with
# the settings it had, and goes on to the same last epoch.
#
# *About session limits:* Colab ends a free session after some hours, or when the browser tab is
# closed for long. With Drive (section 2), a copy is kept there every five minutes.

# %% cellView="form"
# @title 4.2 New training, or continue { display-mode: "form" }
run_name = "my_run"  # @param {type:"string"}
continue_newest_run = False  # @param {type:"boolean"}
run_settings = session.open_run(run_name, form.settings, resume=continue_newest_run)
training = session.open_training(data.stacks, run_settings)
display(training)
await training.check()

# %% [markdown]
# ## 4.3 Start training
#
# The curves and pictures are in the panel **above**. While it trains you can press Pause or *Stop
# and keep*, and move the sliders; they act at the next step. The square stop button of this cell
# does the same as *Stop and keep*: the network is kept. With the preset *quick* it takes
# **minutes**, with *published* on a GPU **up to an hour** for one stack.
#
# *Usual mistake:* closing the browser. Leave the tab open; Colab takes idle sessions away.

# %%
trained = await training.train()

# %% [markdown]
# # 5. Evaluate your model
#
# ## 5.1 Inspection of the loss function
#
# - The **soft N-cut** should fall and then flatten (the *plateau*): from there, more epochs change
#   little. If it stays close to where it began, all voxels share one class.
# - The **reconstruction** should fall too. If it rises, raise `reconstruction_weight`.
# - If the soft N-cut does not fall, lower `reconstruction_weight`. Takes **no time**.
#
# *Usual mistake:* judging by the curves alone. The cells in 5.2 matter more.

# %%
print(trained.advice)
Image(curves.figure_png(curves.plot_losses(trained.history)))

# %% [markdown]
# ## 5.2 Quality metrics
#
# Finds the cells of the training stacks, always beside what the same steps find without a network,
# and compares both with labels if there are any. Everything is written to the folder `Quality
# Control`. Takes **a minute or two** per stack.
#
# *Usual mistake:* trusting a network because it is one. Where both methods agree, take either;
# where they differ, look.

# %%
found = await widgets.find_cells(trained, data.stacks)
print("Written to", quality.write_quality(trained.run, found))
widgets.show_scores(found)

# %% [markdown]
# # 6. Use the network
#
# ## 6.1 Preview
#
# Shows the cells of a part of your first stack; move the sliders until they look right. Takes
# **seconds**.
#
# - `model`: empty for the network that you trained above; else the folder of an earlier run, a
#   weights file, or a word: `starter` (comes with the program), `published` (fetched from the web)
#   or `none` (the same steps without a network).
# - `images`: empty for the stacks of section 3.1; else a folder of TIFFs, or one TIFF.
#
# What you said of the data in section 3.1 (channel, time point, voxel size) holds here too. It is
# shown above the sliders, and can be changed there; then run the cell again.
#
# *Usual mistake:* stacks from another microscope. The network knows what it was trained on.

# %% cellView="form"
# @title 6.1 Preview { display-mode: "form" }
model = ""  # @param {type:"string"}
images = ""  # @param {type:"string"}
model_to_use = session.open_model(model)
images_field = session.choose_images(images)
display(images_field)
tuner = widgets.CellTuner(model_to_use, images_field.stacks)
tuner

# %% [markdown]
# ## 6.2 Find the cells of all stacks
#
# Takes the sliders of 6.1 and goes through all stacks: **a minute or two** each. For each stack it
# writes the labels, a table of cells, and a picture with both methods. Earlier results are kept.

# %%
predictions, stacks = model_to_use.run / "predictions", images_field.stacks
cells = await widgets.find_cells(model_to_use, stacks, tuner.changes, folder=predictions)
widgets.view_cells(cells, stacks, table=True)

# %% [markdown]
# # 7. Save, cite, and version log
#
# Copies all results of the training, and of other models used in section 6, to new folders on
# Drive, reads every file back to be sure, and downloads them as zips if you tick the box. Takes **a
# minute or two**. Nothing on your Drive is ever replaced.
#
# **Report:** `report.html` has cells, pictures, sizes, settings and how to repeat it on one page.
#
# **Version log:** it is in `Quality Control/version_log.txt` and in `settings.json`, which can
# repeat the training.
#
# **Please cite** the methods: W-Net (Xia & Kulis, arXiv:1711.08506, 2017), CellSeg3D (Achard et
# al., eLife 13:RP99848, 2024, doi:10.7554/eLife.99848), and ZeroCostDL4Mic (von Chamier, Laine et
# al., Nature Communications 12:2276, 2021).
#
# *Usual mistake:* closing Colab right after this cell. Wait for its last line.

# %% cellView="form"
# @title 7. Save the results { display-mode: "form" }
download_as_zip = True  # @param {type:"boolean"}
print(session.save(download=download_as_zip))
