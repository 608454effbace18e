from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.nuclei import make_nuclei
from wnet_nb.config import preset
from wnet_nb.errors import UserError
from wnet_nb.files.volumes import Volume
from wnet_nb.jobs import check as advice
from wnet_nb.jobs.stacks import Stack

QUICK = preset("quick")


def volume(array, size=(1.0, 1.0, 1.0), source="option", remarks=()):
    return Volume(np.asarray(array), size, source, Path("a.tif"), tuple(remarks))


def words(array, settings=QUICK, **facts):
    return " | ".join(f.text for f in advice.check_volume(volume(array, **facts), settings))


@pytest.fixture(scope="module")
def image():
    return make_nuclei(shape=(64, 64, 64), n_cells=40)[0]


def test_nothing_is_wrong_with_the_example_volume(image):
    assert advice.check_volume(volume(image), QUICK) == []


def test_a_constant_volume_cannot_be_used():
    with pytest.raises(UserError, match=r"same value \(7\)"):
        advice.check_volume(volume(np.full((32, 32, 32), 7, np.uint8)), QUICK)


def test_a_volume_with_nan_cannot_be_used(image):
    broken = image.astype(np.float32)
    broken[3, 3, 3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        advice.check_volume(volume(broken), QUICK)


def test_a_volume_of_four_slices_cannot_be_used(image):
    with pytest.raises(UserError, match="4×64×64"):
        advice.check_volume(volume(image[:4]), QUICK)


def test_overexposed_voxels_are_noticed(image):
    assert "largest value (400)" in words(np.minimum(image, 400))


def test_a_padded_volume_is_noticed(image):
    padded = np.zeros_like(image)
    padded[16:48] = image[16:48]
    assert "empty or padded" in words(padded)


def test_dark_cells_on_a_bright_background_are_noticed(image):
    assert "invert" in words(image.max() - image)


def test_a_very_bright_large_region_is_noticed(image):
    bright = image.copy()
    bright[20:50, 20:50, 20:50] += 5000
    assert "very bright region" in words(bright)


def test_a_volume_with_hardly_a_bright_voxel_is_noticed():
    random = np.random.default_rng(0)
    dark = random.normal(100, 1, (64, 64, 64)).astype(np.float32)
    dark[30:33, 30:33, 30:33] = 5000
    assert "mostly empty" in words(dark, QUICK.replace(normalisation="minmax"))


def test_noise_asks_for_a_larger_intensity_sigma_unless_it_is_large(image):
    noisy = image + np.random.default_rng(0).normal(0, 60, image.shape)
    assert "raise intensity_sigma (now 1)" in words(noisy, preset("published", patch_size=64))
    assert "noisy" not in words(noisy, QUICK)


@pytest.mark.parametrize("noise", [3, 6, 12])
def test_the_example_is_said_to_be_noisy_where_it_is_with_the_published_settings(noise):
    noisy, _ = make_nuclei(noise=noise)
    assert "raise intensity_sigma (now 1)" in words(noisy, preset("published"))


def test_the_example_is_not_said_to_be_noisy(image):
    assert "noisy" not in words(image, preset("published"))


@pytest.mark.parametrize("noise", [1, 12])
def test_sixteen_bits_cut_down_to_eight_are_told(noise):
    wrapped = make_nuclei(noise=noise)[0].astype(np.uint8)
    assert "wrapped around" in words(wrapped)


def test_an_image_of_eight_bits_is_not_taken_for_a_wrapped_one(image):
    scaled = (image * (255 / image.max())).astype(np.uint8)
    assert "wrapped" not in words(scaled)


def test_a_voxel_size_in_another_order_is_asked_about(image):
    assert "is the order z,y,x right? (voxel_size_um=1.75,0.8,0.8" in words(
        image, size=(0.8, 0.8, 1.75)
    )
    assert "order z,y,x right?" in words(image, size=(1.75, 0.4, 0.8))
    assert "order" not in words(image, size=(1.75, 0.8, 0.8))


@pytest.mark.parametrize(
    "size, said",
    [((800, 200, 200), "2,000 µm wide: is the voxel size in nm?"), ((2e-3,) * 3, "in mm?")],
)
def test_a_voxel_size_in_another_unit_is_asked_about(image, size, said):
    assert said in words(image, size=size)


def test_an_image_is_told_from_labels(image):
    _, labels = make_nuclei(shape=(32, 32, 32), n_cells=10)
    assert advice.looks_like_image(image) and not advice.looks_like_labels(image)
    assert advice.looks_like_labels(labels) and not advice.looks_like_image(labels)
    nothing = np.zeros((8, 8, 8), np.uint8)
    assert not advice.looks_like_image(nothing) and not advice.looks_like_labels(nothing)


def test_labels_are_not_taken_for_an_image():
    _, labels = make_nuclei(shape=(32, 32, 32), n_cells=10)
    assert "looks like labels" in words(labels)


def test_strong_anisotropy_suggests_patches_of_equal_edges_in_micrometres(image):
    found = words(image, preset(), size=(4.0, 1.0, 1.0))
    assert "4 times" in found and "16,64,64 voxels: set patch_size" in found


def test_a_volume_smaller_than_a_patch_is_told(image):
    assert "smaller than a patch of 64×64×64" in words(image[:24], preset())


def test_an_assumed_voxel_size_is_a_warning(image):
    found = advice.check_volume(volume(image, source="assumed", remarks=["no size"]), QUICK)
    assert [(f.level, f.text) for f in found] == [("warning", "no size")]


def test_every_finding_says_what_to_do_in_one_line(image):
    bad = np.minimum(image.max() - image, 900)
    for finding in advice.check_volume(volume(bad, size=(5.0, 1.0, 1.0)), preset()):
        assert "\n" not in finding.text
        assert any(mark in finding.text for mark in (";", ":"))


def test_the_cell_size_of_the_example_is_told(image):
    found = advice.check_cell_size(Stack(volume(image)).cell_size, QUICK)
    assert found.level == "info" and "radius of about" in found.text


def test_patches_too_small_for_the_cells_are_a_warning(image):
    found = advice.check_cell_size(Stack(volume(image)).cell_size, QUICK.replace(patch_size=16))
    assert found.level == "warning" and "raise patch_size" in found.text
