"""Batches of images: real ones, kept as bytes and normalised when they are used, and synthetic ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Normalised images [B, C, H, W] and their labels: classes int64 [B], or probabilities float [B, classes]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class Samples(Protocol):
    """Labelled images that hand out batches by index."""

    def batch(self, indices: Tensor) -> Batch: ...


def laid_out(images: Tensor) -> Tensor:
    """Images [B, C, H, W] in memory as real ones are, a pixel's colours side by side; anything else as it is.

    In another layout convolution and pooling may take twice as long. With one channel only strides tell the two apart.
    """
    if images.ndim != 4 or images.stride(1) == 1:
        return images
    return images.clone(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Images:
    """Real images: uint8 [N, H, W, C] as stored, normalised per channel as they are handed out."""

    pixels: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def batch(self, indices: Tensor) -> Batch:
        mean, std = self._planes
        chosen = self.pixels[indices].to(torch.float32).sub_(mean).div_(std)
        return Batch(chosen.permute(0, 3, 1, 2), self.labels[indices])

    @cached_property
    def _planes(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation spread over an image: broadcasting over the first axis alone is several times faster."""
        shape = self.pixels.shape[1:]
        return self.mean.expand(shape).contiguous(), self.std.expand(shape).contiguous()


@dataclass(frozen=True)
class SyntheticImages:
    """Images that a generator made: float [N, C, H, W], already normalised, with hard or soft labels."""

    images: Tensor
    labels: Tensor

    def batch(self, indices: Tensor) -> Batch:
        return Batch(laid_out(self.images[indices]), self.labels[indices])
