from pathlib import Path

import numpy as np

from wnet_nb import widgets
from wnet_nb.files.volumes import read_volume
from wnet_nb.jobs.stacks import read_stacks
from wnet_nb.widgets.stacks_panel import CropForm
from wnet_nb.widgets.viewer import TRUTH


def crop_form(stacks):
    viewer = widgets.view_stacks(stacks).shown
    (form,) = [child for child in viewer.children if isinstance(child, CropForm)]
    return viewer, form


def test_each_volume_is_viewed_with_its_truth(folder, settings):
    shown = widgets.view_stacks(read_stacks(folder / "two", settings))
    assert shown.which.layout.display == "" and shown.shown.overlays == {}
    first = shown.shown.picture.value
    shown.which.value = 1
    assert shown.shown.picture.value != first
    alone = widgets.view_stacks(read_stacks(folder / "in", settings, labels=folder / "truth"))
    assert alone.which.layout.display == "none" and list(alone.shown.overlays) == [TRUTH]


def test_a_box_is_seen_in_the_planes_and_written_with_its_voxel_size(stacks):
    viewer, form = crop_form(stacks)
    before = viewer.picture.value
    assert [slider.description for slider in form.sliders] == [f"{a}, voxels" for a in "zyx"]
    form.sliders[0].value, form.sliders[2].value = (2, 20), (8, 32)
    assert viewer.picture.value != before and "18 × 32 × 24 voxels" in form.said.value
    form.button.click()
    part = read_volume("crops/a_crop1.tif")
    assert part.voxel_size_um == (2.0, 1.0, 1.0)
    assert np.array_equal(part.array, stacks[0].array[2:20, :, 8:32])
    assert "crops/a_crop1.tif" in form.said.value


def test_the_truth_is_cut_with_its_image_and_known_as_such(stacks, settings):
    _, form = crop_form(stacks)
    form.sliders[1].value = (0, 16)
    form.button.click()
    (cropped,) = read_stacks("crops", settings)
    assert np.array_equal(cropped.truth, stacks[0].truth[:, :16])


def test_a_second_crop_takes_another_name_and_an_empty_box_is_refused(stacks):
    _, form = crop_form(stacks)
    for _ in range(2):
        form.button.click()
    form.sliders[0].value = (5, 5)
    form.button.click()
    assert "cannot be written" in form.said.value
    names = sorted(path.name for path in Path("crops").glob("*crop?.tif"))
    assert names == ["a_crop1.tif", "a_crop2.tif"]
