"""Layers that are written in another way than they are defined: the same function, and the same gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apfl.memorization.network import SemanticGenerator, UpsampledConv2d, interleaved
from benchmarks.profile import sliced


def defined(layer: UpsampledConv2d, images: Tensor) -> Tensor:
    """What the layer says it is."""
    return F.conv2d(F.interpolate(images, scale_factor=2), layer.weight, layer.bias, padding=1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("size", [(1, 1), (4, 7), (8, 8)])
def test_an_upsampled_convolution_is_one_after_upsampling(size: tuple[int, int], dtype, tolerance: float) -> None:
    stream = torch.Generator().manual_seed(0)
    layer = UpsampledConv2d(6, 5).to(dtype, memory_format=torch.channels_last)
    images = torch.randn(3, 6, *size, generator=stream, dtype=dtype, requires_grad=True)
    outputs = [function(layer, images) for function in (defined, UpsampledConv2d.forward)]
    assert outputs[0].shape == outputs[1].shape == (3, 5, 2 * size[0], 2 * size[1])
    weight = torch.randn(outputs[0].shape, generator=stream, dtype=dtype)
    grads = [torch.autograd.grad((output * weight).sum(), [images, layer.weight, layer.bias]) for output in outputs]
    for one, other in zip((outputs[0], *grads[0]), (outputs[1], *grads[1]), strict=True):
        assert (one - other).abs().max() <= tolerance * one.abs().max()


def test_it_can_be_differentiated_twice() -> None:
    layer = UpsampledConv2d(2, 3).double()
    images = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradgradcheck(layer, images.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1), (4, 7), (8, 8)])
def test_phases_and_their_gradients_are_to_the_bit_those_of_slices_put_together(size: tuple[int, int], dtype) -> None:
    stream = torch.Generator().manual_seed(0)
    height, width = size
    planes = torch.randn(3, 20, height + 1, width + 1, generator=stream).to(dtype, memory_format=torch.channels_last)
    images = [function(planes.requires_grad_()) for function in (sliced, interleaved)]
    assert torch.equal(*images) and images[0].stride() == images[1].stride()
    weight = torch.randn(images[0].shape, generator=stream).to(dtype)
    gradients = [torch.autograd.grad((image * weight).sum(), planes)[0] for image in images]
    assert torch.equal(*gradients) and gradients[0].count_nonzero() == weight.count_nonzero()


def test_bfloat16_agrees_within_its_rounding() -> None:
    layer = UpsampledConv2d(16, 8).to(memory_format=torch.channels_last)
    images = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = layer(images)
    assert output.dtype == torch.bfloat16
    exact = defined(layer, images)
    assert (output - exact).abs().max() < 2**-6 * exact.abs().max()


def test_the_generator_is_that_of_the_literature() -> None:
    """Its layers as they are drawn there, with the same parameters in the same order, make the same images."""
    torch.manual_seed(0)
    generator = SemanticGenerator(5, 7, 3, width=4)
    torch.manual_seed(0)
    noise, semantics = nn.Linear(5, 4 * 64), nn.Linear(7, 4 * 64)
    layers = nn.Sequential(
        nn.BatchNorm2d(8), nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(4),
        nn.LeakyReLU(0.2), nn.Conv2d(4, 3, 3, padding=1), nn.Tanh(), nn.BatchNorm2d(3, affine=False),
    )  # fmt: skip
    ours = [*generator.parameters()]
    theirs = [*noise.parameters(), *semantics.parameters(), *layers.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    stream = torch.Generator().manual_seed(1)
    z, a = torch.randn(9, 5, generator=stream), torch.randn(9, 7, generator=stream)
    expected = layers(torch.cat([noise(z), semantics(a)], dim=1).view(9, 8, 8, 8))
    assert torch.allclose(generator(z, a), expected, atol=1e-4)
