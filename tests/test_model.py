"""Tests of `wnet_nb.model`: the published network's names, shapes and outputs."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wnet_nb.model import ReLUDropout, Stage, WNet3D

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)  # for tensors this small a second one only costs


def fill(model):
    """Fill a network as golden/README.md says."""
    with torch.no_grad():
        for i, (name, tensor) in enumerate(model.state_dict().items()):
            n = tensor.numel()
            a = np.sin(0.7 * np.arange(n) + i).reshape(tensor.shape)
            if tensor.ndim > 1:
                a = a / np.sqrt(n / tensor.shape[0])
            else:
                a = 1 + 0.1 * a if name.endswith("weight") else 0.05 * a
            tensor.copy_(torch.from_numpy(a))
    return model


def test_names_and_shapes_are_those_of_the_published_state_dict_in_order():
    published = json.loads((GOLDEN / "cellseg3d_state_dict.json").read_text())
    with torch.device("meta"):
        state = WNet3D().state_dict()
    assert [[name, list(tensor.shape)] for name, tensor in state.items()] == published


def test_outputs_are_those_of_the_published_network():
    golden = np.load(GOLDEN / "wnet_forward.npz")
    model = fill(WNet3D()).eval()
    with torch.inference_mode():
        probabilities, reconstruction = model(torch.from_numpy(golden["image"]))
    assert np.abs(probabilities.numpy() - golden["encoder"]).max() < 1e-4
    assert np.abs(reconstruction.numpy() - golden["decoder"]).max() < 1e-4


@pytest.mark.parametrize(("inside", "outside"), [(8, 4), (8, 8), (4, 8)])
def test_composed_convolution_equals_the_two_plain_ones_forward_and_backward(inside, outside):
    stage = Stage(inside, outside, 0.0, paired=True).double()
    x = torch.randn(2, inside, 6, 5, 7, dtype=torch.float64, requires_grad=True)
    wanted = [x, *stage.parameters()]
    goal = torch.randn(2, outside, 6, 5, 7, dtype=torch.float64)
    results = []
    for form in (stage, stage.module):  # the module alone applies layer by layer
        y = form(x)
        results.append([y, *torch.autograd.grad((y * goal).sum(), wanted)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_probabilities_are_positive_and_sum_to_one(classes):
    probabilities, reconstruction = WNet3D(classes, base_channels=4)(torch.rand(2, 1, 8, 16, 24))
    assert probabilities.shape == (2, classes, 8, 16, 24)
    assert reconstruction.shape == (2, 1, 8, 16, 24)
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 8, 16, 24))


def test_channels_double_from_stage_to_stage():
    encoder = WNet3D(base_channels=8).encoder
    stages = (encoder.in_b, encoder.conv1, encoder.conv2, encoder.bot)
    norms = [[m for m in s.modules() if isinstance(m, nn.GroupNorm)] for s in stages]
    assert [[n.num_channels for n in pair] for pair in norms] == [[c, c] for c in (8, 16, 32, 64)]
    assert {n.num_groups for pair in norms for n in pair} == {4}


@pytest.mark.parametrize("shape", [(12, 16, 16), (16, 16, 20), (7, 8, 8)])
def test_edge_that_is_no_multiple_of_8_is_refused_with_the_shape(shape):
    words = rf"multiples of 8.*\(1, 1, {shape[0]}, {shape[1]}, {shape[2]}\)"
    with pytest.raises(ValueError, match=words):
        WNet3D(base_channels=4)(torch.zeros(1, 1, *shape))


@pytest.mark.parametrize("shape", [(16, 16, 16), (1, 16, 16, 16), (1, 3, 16, 16, 16)])
def test_tensor_with_the_wrong_axes_is_refused_with_its_shape(shape):
    with pytest.raises(ValueError, match=r"\(N, 1, Z, Y, X\)"):
        WNet3D(base_channels=4)(torch.zeros(shape))


def test_base_channels_that_do_not_make_4_groups_are_refused():
    with pytest.raises(ValueError, match="divisible"):
        WNet3D(base_channels=6)


def test_dropout_acts_in_training_and_only_there():
    model, image = WNet3D(base_channels=4, dropout=0.5), torch.rand(1, 1, 8, 8, 8)
    with torch.no_grad():
        first, second = model(image)[1], model(image)[1]
        assert not torch.equal(first, second)
        model.eval()
        assert torch.equal(model(image)[1], model(image)[1])


def test_dropout_rate_is_the_one_asked_for_everywhere():
    rates = {
        m.p for m in WNet3D(base_channels=4, dropout=0.3).modules() if isinstance(m, nn.Dropout)
    }
    assert rates == {0.3}


def relu_dropout(x, rate):
    return ReLUDropout.apply(x.clone(), rate)  # it works in place


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("rate", [0.1, 0.65, 0.95])
def test_dropout_has_the_mean_and_the_rate_of_the_plain_one(rate, layout):
    x = torch.ones(2, 8, 20, 30, 40).contiguous(memory_format=layout).requires_grad_()
    y = relu_dropout(x, rate)
    n, kept = y.numel(), float((y != 0).float().mean())
    assert kept == pytest.approx(1 - rate, abs=4 * (rate * (1 - rate) / n) ** 0.5 + 1e-5)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - rate)], rel=1e-3)
    assert y.is_contiguous(memory_format=layout)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # what is off gets no gradient, what is on its scale


def test_without_dropout_it_is_relu_with_its_gradient():
    x = torch.randn(3, 5, 7, 9, requires_grad=True)
    y, goal = relu_dropout(x, 0.0), torch.randn(3, 5, 7, 9)
    assert torch.equal(y, x.relu())
    (found,) = torch.autograd.grad((y * goal).sum(), x)
    assert torch.equal(found, goal * (x > 0))


def test_neighbours_are_dropped_independently_and_every_call_anew():
    x = torch.ones(200_000)
    y = relu_dropout(x, 0.5) - 1
    for lag in (1, 2, 3, 4, 8):  # four of them come from one random number
        assert abs(float((y[:-lag] * y[lag:]).mean())) < 5 / len(x) ** 0.5
    assert abs(float((y * (relu_dropout(x, 0.5) - 1)).mean())) < 5 / len(x) ** 0.5


def test_dropout_repeats_with_its_seed():
    x = torch.rand(3, 5, 7)
    torch.manual_seed(4)
    first = relu_dropout(x, 0.3)
    torch.manual_seed(4)
    assert torch.equal(relu_dropout(x, 0.3), first) and not torch.equal(first, x)


def test_what_is_not_a_number_stays_so_where_it_is_not_dropped():
    assert relu_dropout(torch.full((1000,), torch.nan), 0.5).isnan().any()


def test_activation_checkpointing_changes_no_output_and_no_gradient():
    model = WNet3D(3, base_channels=8, dropout=0.5)
    saving = copy.deepcopy(model)
    saving.encoder.activation_checkpointing = saving.decoder.activation_checkpointing = True
    image, results = 100 * torch.rand(2, 1, 16, 16, 16), []
    for form in (model, saving):
        torch.manual_seed(3)
        probabilities, reconstruction = form(image)
        (probabilities[:, 0].square().mean() + reconstruction.square().mean()).backward()
        gradients = [parameter.grad for parameter in form.parameters()]
        results.append([probabilities, reconstruction, *gradients])
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def test_network_and_gradients_are_those_of_plain_layers_one_after_the_other():
    model = WNet3D(3, base_channels=8, dropout=0.0)
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, Stage):
            module.forward = module.module.forward
    image = 100 * torch.rand(2, 1, 16, 24, 16)
    results = []
    for form in (model, plain):
        probabilities, reconstruction = form(image)
        (probabilities[:, 0].square().mean() + (reconstruction - image).square().mean()).backward()
        gradients = [parameter.grad for parameter in form.parameters()]
        results.append([probabilities, reconstruction, *gradients])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).norm() <= 1e-4 * expected.norm() + 1e-12


def test_every_parameter_gets_a_gradient():
    model = WNet3D(base_channels=4, dropout=0.0)
    probabilities, reconstruction = model(torch.rand(1, 1, 16, 16, 16))
    (probabilities[:, 0].square().mean() + reconstruction.square().mean()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
