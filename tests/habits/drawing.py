"""A module that draws while it is imported, by all three generators."""

from __future__ import annotations

import random

import numpy as np
import torch
from habits.harness import WIDTH, Trunk
from torch import Tensor

SHIFT = torch.randn(WIDTH) * (random.random() + float(np.random.rand()))


class Shifted(Trunk):
    def middle(self, h: Tensor) -> Tensor:
        return h + SHIFT
