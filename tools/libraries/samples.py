"""Samples of the models' inputs: one item of a data set each, keys in the order of the forward's arguments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SIDE = 32
"""Pixels of an image's side."""
LENGTH = 16
"""Elements of a sequence."""
TOKENS = 64
"""Size of every vocabulary."""
WIDTH = 16
"""Features of an element."""

Sample = Callable[[torch.Generator], dict[str, Tensor]]


def image(generator: torch.Generator, side: int = SIDE, channels: int = 3) -> dict[str, Tensor]:
    return {"x": torch.randn(channels, side, side, generator=generator)}


def images_of(side: int, channels: int = 3) -> Sample:
    return lambda generator: image(generator, side, channels)


def tokens(generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randint(TOKENS, (LENGTH,), generator=generator)}


def tokens_of(length: int) -> Sample:
    return lambda generator: {"x": torch.randint(TOKENS, (length,), generator=generator)}


def sequence(generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(LENGTH, WIDTH, generator=generator)}


def features(generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(WIDTH, generator=generator)}


def signal(generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(WIDTH, 4 * LENGTH, generator=generator)}


def wave(generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(1, 800, generator=generator)}


def volume(generator: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(1, 16, 16, 16, generator=generator)}


def noisy(generator: torch.Generator) -> dict[str, Tensor]:
    """An image, and the time step of a diffusion model."""
    return {"x": torch.randn(3, SIDE, SIDE, generator=generator), "t": torch.randint(1000, (), generator=generator)}


def text_and_image(generator: torch.Generator) -> dict[str, Tensor]:
    return image(generator) | {"text": torch.randint(TOKENS, (LENGTH,), generator=generator)}


def table(generator: torch.Generator) -> dict[str, Tensor]:
    """Numbers, and two categories of three."""
    return {"x": torch.randn(4, generator=generator), "c": torch.randint(3, (2,), generator=generator)}
