"""The generator's network."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

PHASES = tuple(product((0, 1), repeat=2))
"""Rows and columns of a 2x2 block of an upsampled image."""


class UpsampledConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling by two, then a 3x3 convolution with padding 1: [B, C, H, W] to [B, O, 2H, 2W].

    Of the nine pixels that a 3x3 kernel sees after upsampling only four differ, so that each of the four phases of the
    output (even and odd rows and columns) is a 2x2 convolution of the small plane, with kernels that are sums of the
    3x3 kernel's entries: the same function at four ninths of the multiplications (Shi et al. 2016, "Is the
    deconvolution layer the same as a convolutional layer?").
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__(channels, outputs, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        kernels = _phases(_phases(self.weight, 2), 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
        # One convolution for all phases; with padding 1 it sees one row and column more than each of them needs.
        planes = nn.functional.conv2d(images, kernels, self.bias.repeat(4), padding=1)  # type: ignore[union-attr]
        return interleaved(planes)


def _phases(kernels: Tensor, axis: int) -> Tensor:
    """A kernel [..., 3, ...] on an upsampled axis as two kernels [2, ..., 2, ...] on the axis itself: an even place
    sees its left neighbour once and itself twice, an odd place itself twice and its right neighbour once."""
    left, middle, right = kernels.unbind(axis)
    even, odd = torch.stack([left, middle + right], axis), torch.stack([left + middle, right], axis)
    return torch.stack([even, odd])


class _Interleaved(torch.autograd.Function):
    """`interleaved`, with a gradient that is written once.

    Automatic differentiation of the four slices makes the gradient four times, each time in planes full of zeros, and
    adds these up, for the same numbers.
    """

    @staticmethod
    def forward(_: Any, planes: Tensor) -> Tensor:
        height, width = planes.shape[2] - 1, planes.shape[3] - 1
        small = planes.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))  # [B, H + 1, W + 1, column, row, O]
        large = planes.new_empty(len(planes), height, 2, width, 2, small.shape[-1])
        for row, column in PHASES:
            large[:, :, row, :, column] = small[:, row : row + height, column : column + width, column, row]
        return large.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        height, width = gradient.shape[2] // 2, gradient.shape[3] // 2
        large = gradient.permute(0, 2, 3, 1).unflatten(2, (width, 2)).unflatten(1, (height, 2))
        small = gradient.new_zeros(len(gradient), height + 1, width + 1, 2, 2, gradient.shape[1])
        for row, column in PHASES:
            small[:, row : row + height, column : column + width, column, row] = large[:, :, row, :, column]
        return small.flatten(3).permute(0, 3, 1, 2)


def interleaved(planes: Tensor) -> Tensor:
    """Four phases [B, (column, row, O), H + 1, W + 1], each of which leaves one row and one column unused, as one image
    [B, O, 2H, 2W]."""
    return _Interleaved.apply(planes)  # type: ignore[no-any-return]


class SemanticGenerator(nn.Module):
    """G(z, A(y)) of Eq. 11: noise [B, z] and class semantics [B, d] to images [B, C, 32, 32].

    GeneratorA of Fang et al. (2019), "Data-free adversarial distillation", in the conditional form of Zhang et al.
    (2022), "Fine-tuning global model via data-free knowledge distillation": two linear branches, concatenated, then
    two upsampling stages. The last layer normalises without affine parameters, so images come out as real ones go in:
    with zero mean and unit variance per channel. ``width`` is 64 in those papers; the cost grows with its square.
    """

    def __init__(self, noise_dimension: int, semantic_dimension: int, channels: int, width: int = 64) -> None:
        super().__init__()
        self.noise_dimension = noise_dimension
        self.width = width
        self.noise = nn.Linear(noise_dimension, width * 64)
        self.semantics = nn.Linear(semantic_dimension, width * 64)
        self.image = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            UpsampledConv2d(2 * width, 2 * width),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            UpsampledConv2d(2 * width, width),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, noise: Tensor, semantics: Tensor) -> Tensor:
        branches = torch.cat([self.noise(noise), self.semantics(semantics)], dim=1)
        planes = branches.view(len(noise), 2 * self.width, 8, 8).contiguous(memory_format=torch.channels_last)
        return self.image(planes)  # type: ignore[no-any-return]
