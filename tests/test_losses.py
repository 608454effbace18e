"""Tests of `wnet_nb.losses`: published values, brute force, gradients, and edge cases."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from wnet_nb.config import Settings
from wnet_nb.losses import gaussian_sum, hold_loss, reconstruction_loss, soft_ncut_loss, wnet_losses

GOLDEN = Path(__file__).parent / "golden"
FORMS = ("class_mean", "pairwise")
REFERENCES = {form: np.load(GOLDEN / f"soft_ncut_{form}.npz") for form in FORMS}
CASES = [
    (form, case)
    for form, reference in REFERENCES.items()
    for case in sorted({key.rsplit("/", 1)[0] for key in reference})
]
SIZES = {"intensity_sigma": 12.0, "spatial_sigma": 2.0, "radius": 2}


def example(shape=(1, 2, 5, 4, 6), seed=0, dtype=torch.float64):
    """Return random probabilities (N, K, Z, Y, X) and an image (N, 1, Z, Y, X) in 0-100."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=random, dtype=dtype)
    image = 100 * torch.rand((shape[0], 1, *shape[2:]), generator=random, dtype=dtype)
    return logits.softmax(1), image


def brute_force(p, image, intensity_sigma, spatial_sigma, radius):
    """Return the pairwise soft N-cut from the whole matrix of weights, in float64."""
    shape = p.shape[2:]
    place = np.stack(np.indices(shape), -1).reshape(-1, 3)  # (voxels, 3)
    square = ((place[:, None] - place[None]) ** 2).sum(-1)
    loss = 0.0
    for q, picture in zip(p.numpy(), image.numpy(), strict=True):
        values = picture.ravel()
        w = np.exp(-((values[:, None] - values) ** 2) / intensity_sigma**2)
        w *= np.exp(-square / spatial_sigma**2) * (square < radius**2)
        for k in q.reshape(len(q), -1):
            loss += (1 - k @ w @ k / (k @ w.sum(1))) / len(p)
    return loss


def dense_gaussian_sum(x, sigma, radius):
    """Return the Gaussian sum by one convolution with the whole cube."""
    d = torch.arange(-radius, radius + 1, dtype=x.dtype)
    kernel = torch.exp(-(d[:, None, None] ** 2 + d[:, None] ** 2 + d**2) / (2 * sigma**2))
    flat = x.reshape(-1, 1, *x.shape[-3:])
    return functional.conv3d(flat, kernel[None, None], padding=radius).view(x.shape)


@pytest.mark.parametrize(("form", "case"), CASES)
def test_value_and_gradient_are_those_of_the_reference(form, case):
    golden = {k: REFERENCES[form][f"{case}/{k}"] for k in ("image", "probabilities", "loss")}
    sigma_i, sigma_x, radius = (float(v) for v in REFERENCES[form][f"{case}/params"])
    p = torch.from_numpy(golden["probabilities"]).float().requires_grad_()
    loss = soft_ncut_loss(
        p,
        torch.from_numpy(golden["image"]).float(),
        intensity_sigma=sigma_i,
        spatial_sigma=sigma_x,
        radius=int(radius) if radius.is_integer() else radius,
        affinity=form,
    )
    loss.backward()
    grad = REFERENCES[form][f"{case}/grad"]
    assert abs(loss.item() - golden["loss"]) <= 1e-5 * abs(golden["loss"])
    assert np.linalg.norm(p.grad.numpy() - grad) <= 1e-4 * np.linalg.norm(grad)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(1, 2, 4, 4, 4), (2, 3, 3, 5, 4), (1, 2, 1, 4, 3)])
def test_gradient_agrees_with_finite_differences(form, shape):
    p, image = example(shape)

    def loss(p):
        return soft_ncut_loss(p, image, affinity=form, **SIZES)

    assert torch.autograd.gradcheck(loss, p.requires_grad_(), eps=1e-6, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("radius", [1, 2, 3, 9])
@pytest.mark.parametrize("shape", [(6, 7, 8), (1, 5, 9), (4, 4, 4)])
def test_separable_sum_equals_a_dense_convolution(shape, radius):
    x = torch.rand(2, 3, *shape, dtype=torch.float64)
    torch.testing.assert_close(
        gaussian_sum(x, 1.7, radius), dense_gaussian_sum(x, 1.7, radius), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("radius", [1, 2, 2.5, 3, 20])
@pytest.mark.parametrize("shape", [(1, 2, 5, 4, 6), (2, 3, 1, 4, 5)])
def test_pairwise_form_equals_brute_force(shape, radius):
    p, image = example(shape)
    sizes = {**SIZES, "radius": radius}
    loss = soft_ncut_loss(p, image, affinity="pairwise", **sizes)
    assert loss.item() == pytest.approx(brute_force(p, image, **sizes), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_loss_of_a_batch_is_the_mean_of_the_losses_of_its_images(form):
    p, image = example((3, 2, 4, 5, 6))
    together = soft_ncut_loss(p, image, affinity=form, **SIZES)
    alone = [
        soft_ncut_loss(p[i : i + 1], image[i : i + 1], affinity=form, **SIZES) for i in range(3)
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean())


@pytest.mark.parametrize("form", FORMS)
def test_order_of_the_classes_does_not_matter(form):
    p, image = example((1, 3, 4, 5, 6))
    ours = soft_ncut_loss(p, image, affinity=form, **SIZES)
    torch.testing.assert_close(ours, soft_ncut_loss(p.flip(1), image, affinity=form, **SIZES))


@pytest.mark.parametrize("form", FORMS)
def test_right_cut_of_two_regions_costs_less_than_a_wrong_or_an_undecided_one(form):
    bright = torch.zeros(1, 1, 8, 8, 8, dtype=torch.float64)
    bright[..., :4] = 1
    right = torch.cat((bright, 1 - bright), 1)
    costs = [
        soft_ncut_loss(p, 100 * bright, affinity=form, **SIZES).item()
        for p in (right, right.mT, torch.full_like(right, 0.5))
    ]
    assert costs[0] < 0.01 and costs[0] < min(costs[1:]) - 0.1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("level", [0.0, 37.0, 100.0])
def test_constant_image_gives_a_finite_loss_and_gradient(form, level):
    p, image = example(dtype=torch.float32)
    p.requires_grad_()
    loss = soft_ncut_loss(p, torch.full_like(image, level), affinity=form, **SIZES)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(p.grad).all()


@pytest.mark.parametrize("form", FORMS)
def test_class_without_any_voxel_gives_a_finite_loss_and_gradient(form):
    p, image = example(dtype=torch.float32)
    p = torch.stack((torch.ones_like(p[:, 0]), torch.zeros_like(p[:, 0])), 1).requires_grad_()
    loss = soft_ncut_loss(p, image, affinity=form, **SIZES)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(p.grad).all()


@pytest.mark.parametrize("form", FORMS)
def test_smallest_intensity_sigma_gives_a_finite_loss_and_gradient(form):
    p, image = example(dtype=torch.float32)
    p.requires_grad_()
    loss = soft_ncut_loss(p, image, affinity=form, **{**SIZES, "intensity_sigma": 0.01})
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(p.grad).all()


def test_pairwise_form_keeps_no_more_for_the_gradient_at_a_larger_radius():
    p, image = example((1, 2, 12, 12, 12))

    def kept(radius):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            soft_ncut_loss(
                p.requires_grad_(), image, affinity="pairwise", **{**SIZES, "radius": radius}
            )
        return sum(sizes)

    assert 0 < kept(1) == kept(6) < 2 * p.numel()


def test_unknown_affinity_is_refused():
    with pytest.raises(ValueError, match="'nearest'"):
        soft_ncut_loss(*example(), affinity="nearest", **SIZES)


@pytest.mark.parametrize("form", FORMS)
def test_image_of_another_shape_is_refused_with_both_shapes(form):
    p, image = example((1, 2, 4, 4, 4))
    for wrong in (
        image[:, :, 1:],
        image[:, 0],
        image.repeat(1, 2, 1, 1, 1),
        image.repeat(2, 1, 1, 1, 1),
    ):
        with pytest.raises(ValueError, match=r"\(1, 1, 4, 4, 4\)"):
            soft_ncut_loss(p, wrong, affinity=form, **SIZES)


def test_mse_is_the_mean_squared_difference_on_0_to_100():
    image = torch.tensor([0.0, 50.0, 100.0]).view(1, 1, 1, 1, 3)
    rebuilt = torch.tensor([3.0, 50.0, 96.0]).view(1, 1, 1, 1, 3)
    assert reconstruction_loss(rebuilt, image, "MSE").item() == pytest.approx((9 + 0 + 16) / 3)


def test_bce_is_that_of_the_sigmoid_against_the_image_in_0_to_1():
    image = torch.tensor([0.0, 25.0, 100.0]).view(1, 1, 1, 1, 3)
    logits = [-2.0, 0.5, 3.0]
    expected = 0.0
    for logit, target in zip(logits, (0.0, 0.25, 1.0), strict=True):
        p = 1 / (1 + math.exp(-logit))
        expected -= (target * math.log(p) + (1 - target) * math.log(1 - p)) / 3
    rebuilt = torch.tensor(logits).view(1, 1, 1, 1, 3)
    assert reconstruction_loss(rebuilt, image, "BCE").item() == pytest.approx(expected, rel=1e-6)


def test_bce_of_huge_logits_stays_finite():
    image = torch.tensor([0.0, 100.0]).view(1, 1, 1, 1, 2)
    assert torch.isfinite(reconstruction_loss(torch.full_like(image, 1e6), image, "BCE"))


@pytest.mark.parametrize("kind", ["MSE", "BCE"])
@pytest.mark.parametrize("form", FORMS)
def test_total_is_the_weighted_sum_of_the_terms_the_settings_ask_for(kind, form):
    p, image = example((1, 2, 8, 8, 8), dtype=torch.float32)
    settings = Settings(
        ncut_weight=0.3,
        reconstruction_weight=0.07,
        reconstruction_loss=kind,
        affinity=form,
        intensity_sigma=7,
        spatial_sigma=3,
        radius=3,
    )
    rebuilt = image / 50
    losses = wnet_losses(p, rebuilt, image, settings)
    cut = soft_ncut_loss(p, image, intensity_sigma=7, spatial_sigma=3, radius=3, affinity=form)
    assert losses.soft_ncut == cut
    assert losses.reconstruction == reconstruction_loss(rebuilt, image, kind)
    assert losses.total.item() == pytest.approx(
        0.3 * cut.item() + 0.07 * losses.reconstruction.item(), rel=1e-6
    )


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_outputs_and_autocast_leave_the_losses_in_float32(form):
    p, image = example((1, 2, 8, 8, 8), dtype=torch.float32)
    half = p.bfloat16()
    settings = Settings(affinity=form)
    outside = wnet_losses(half, half[:, :1], image, settings)
    with torch.autocast("cpu", torch.bfloat16):
        inside = wnet_losses(half, half[:, :1], image, settings)
    assert {term.dtype for term in (*outside, *inside)} == {torch.float32}
    assert inside == outside  # the same bits


def test_offsets_up_to_the_radius_and_no_further_count():
    # One voxel of class 0 and one of class 1, `gap` apart: linked only if gap < radius.
    for gap, radius in itertools.product((1, 2, 3), repeat=2):
        p = torch.zeros(1, 2, 1, 1, gap + 1, dtype=torch.float64)
        p[0, 0, 0, 0, 0] = p[0, 1, 0, 0, -1] = 1
        sizes = {"intensity_sigma": 10.0, "spatial_sigma": 10.0, "radius": radius}
        loss = soft_ncut_loss(p, torch.zeros_like(p[:, :1]), affinity="pairwise", **sizes)
        linked = sum(math.exp(-(d**2) / 100) for d in range(1, gap + 1) if d < radius)
        assert loss.item() == pytest.approx(2 * (1 - 1 / (1 + linked)))


def three_classes(seed=0):
    torch.manual_seed(seed)
    logits = torch.randn(1, 3, 8, 8, 8)
    return logits.softmax(1), torch.rand(1, 1, 8, 8, 8) * 100


HOLDING = Settings(n_classes=3, foreground_classes=(1, 2), core_class=1, hold_weight=2.0)


def test_core_and_rim_count_as_one_class_in_the_cut():
    probabilities, image = three_classes()
    cells = probabilities[:, 1:].sum(1, keepdim=True)
    two = torch.cat((1 - cells, cells), 1)
    found = wnet_losses(probabilities, image, image, HOLDING).soft_ncut
    sigmas = {"intensity_sigma": 1.0, "spatial_sigma": 4.0, "radius": 2}
    torch.testing.assert_close(found, soft_ncut_loss(two, image, **sigmas))


def test_hold_is_zero_for_the_answers_of_the_start_and_grows_with_the_distance():
    probabilities, _ = three_classes()
    other, _ = three_classes(1)
    assert hold_loss(probabilities, probabilities) == 0
    near = hold_loss(0.9 * probabilities + 0.1 * other, probabilities)
    assert 0 < near < hold_loss(other, probabilities)


def test_hold_counts_a_class_of_few_voxels_as_much_as_one_of_many():
    start = torch.zeros(1, 2, 16, 16, 16)
    start[:, 1, :4, :4, :4] = 1  # 1 of 64 voxels
    start[:, 0] = 1 - start[:, 1]
    found = []  # where all voxels of one class move, and none of the other
    for moved in (start[:, 1:], 1 - start[:, 1:]):
        found.append(float(hold_loss(torch.lerp(start, 1 - start, 0.5 * moved), start)))
    few, many = found
    assert few == pytest.approx(many, rel=0.1)


def test_hold_enters_the_total_with_its_weight():
    probabilities, image = three_classes()
    start, _ = three_classes(1)
    free = wnet_losses(probabilities, image, image, HOLDING)
    held = wnet_losses(probabilities, image, image, HOLDING, start=start)
    expected = free.total + 2 * hold_loss(probabilities, start)
    torch.testing.assert_close(held.total, expected)
