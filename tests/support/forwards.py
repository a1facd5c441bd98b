"""Models whose forwards do something beside computing: each KIND a habit, in a net that is otherwise plain."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import random as draw
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

WIDTH = 16
STEPS = {"global": 0}
CALLS = itertools.count()
SHARED = np.random.default_rng(4)
seed_all = torch.manual_seed


@dataclass
class Schedule:
    value: float = 1.0
    history: list[float] = field(default_factory=list)

    def next(self) -> float:
        self.value *= 0.9
        self.history.append(self.value)
        return self.value


class Doubling(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Net(nn.Module):
    """Three layers; what happens between the first and the second depends on the kind."""

    epochs = 0

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second, self.third = nn.Linear(8, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.schedule = Schedule()
        self.temperature, self.calls = 1.0, 0
        self.bank: Tensor | None = None
        self.cache: dict[Any, Tensor] = {}
        self.seen: Any = None
        self.queue: deque[Tensor] = deque(maxlen=2)
        self.own = random.Random(3)
        self.numpys = np.random.default_rng(3)
        self.attended = np.zeros(2)
        self.register_buffer("late", None)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("warmth", torch.ones(()))
        self.register_buffer("noise", torch.randn(WIDTH))
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        h = HABITS[self.kind](self, h)
        return self.third(torch.tanh(self.second(h)))


# -- state that goes on, or is read in the next step -----------------------------------------------------


def annealed(net: Net, h: Tensor) -> Tensor:
    net.temperature *= 0.9
    return h / net.temperature


def annealed_within(net: Net, h: Tensor) -> Tensor:
    return h * net.schedule.next()


def counted(net: Net, h: Tensor) -> Tensor:
    net.calls += 1
    return h * 2 if net.calls > 2 else h


def counted_globally(net: Net, h: Tensor) -> Tensor:
    STEPS["global"] += 1
    return h * (1 + 0.1 * STEPS["global"])


def counted_in_the_class(net: Net, h: Tensor) -> Tensor:
    Net.epochs += 1
    return h * (1 + 0.1 * Net.epochs)


def counted_in_the_function(net: Net, h: Tensor) -> Tensor:
    counted_in_the_function.calls += 1  # type: ignore[attr-defined]
    return h * (1 + 0.1 * counted_in_the_function.calls)  # type: ignore[attr-defined]


counted_in_the_function.calls = 0  # type: ignore[attr-defined]


def counted_by_iterator(net: Net, h: Tensor) -> Tensor:
    return h * (1 + 0.1 * next(CALLS))


def remembered_sizes(net: Net, h: Tensor, seen: list[int] = []) -> Tensor:  # noqa: B006 - the habit
    seen.append(h.shape[0])
    return h * (1 + 0.1 * len(seen))


def momentum_of_a_tensor(net: Net, h: Tensor) -> Tensor:
    before = net.bank if net.bank is not None else torch.zeros_like(h)
    net.bank = (0.9 * before + h).detach()
    return h + net.bank


def bank_in_a_dict(net: Net, h: Tensor) -> Tensor:
    h = h + net.cache.get("last", torch.zeros(1))
    net.cache["last"] = h.detach().mean(0, keepdim=True)
    return h


def bank_in_a_queue(net: Net, h: Tensor) -> Tensor:
    for each in net.queue:
        h = h + 0.1 * each
    net.queue.append(h.detach())
    return h


def noise_drawn_once(net: Net, h: Tensor) -> Tensor:
    if net.bank is None:
        net.bank = torch.randn(WIDTH)
    return h + net.bank


def trained_value_kept(net: Net, h: Tensor) -> Tensor:
    before, net.seen = net.seen, net.scale.detach() * 1.0
    return h * (net.scale if before is None else before)


# -- state that makes no difference ----------------------------------------------------------------------


def mask_kept(net: Net, h: Tensor) -> Tensor:
    size = h.shape[1]
    if size not in net.cache:
        net.cache[size] = torch.tril(torch.ones(size, size))
    return h @ net.cache[size] / size


def map_kept(net: Net, h: Tensor) -> Tensor:
    net.seen = F.softmax(h, dim=1).detach()
    return h


def shape_kept(net: Net, h: Tensor) -> Tensor:
    net.seen = h.shape
    return h


def losses_kept(net: Net, h: Tensor) -> Tensor:
    net.seen = []
    net.seen.append(h.square().mean())
    return h + net.seen[0]


# -- parameters, parts, hooks ----------------------------------------------------------------------------


def data_written(net: Net, h: Tensor) -> Tensor:
    net.second.weight.data = F.normalize(net.second.weight.data, dim=1)
    return h


def data_clamped(net: Net, h: Tensor) -> Tensor:
    net.second.weight.data.clamp_(-0.1, 0.1)
    return h


def copied_into(net: Net, h: Tensor) -> Tensor:
    with torch.no_grad():
        net.second.weight.copy_(net.second.weight * 0.9)
    return h


def frozen_now(net: Net, h: Tensor) -> Tensor:
    net.second.weight.requires_grad_(False)
    return h


def frozen_by_attribute(net: Net, h: Tensor) -> Tensor:
    for each in net.first.parameters():
        each.requires_grad = False
    return h


def layer_made(net: Net, h: Tensor) -> Tensor:
    if not hasattr(net, "extra"):
        net.extra = nn.Linear(WIDTH, WIDTH)
    return net.extra(h)


def parameter_registered(net: Net, h: Tensor) -> Tensor:
    if "gain" not in net._parameters:
        net.register_parameter("gain", nn.Parameter(torch.ones(WIDTH)))
    return h * net.gain


def buffer_filled(net: Net, h: Tensor) -> Tensor:
    if net.late is None:
        net.late = h.detach().mean(0)
    return h - net.late


def mode_flipped(net: Net, h: Tensor) -> Tensor:
    h = net.norm(h)
    net.norm.eval()
    return h


def hook_registered(net: Net, h: Tensor) -> Tensor:
    net.second.register_forward_hook(lambda part, given, made: made * 0.5)
    return h


# -- remedies --------------------------------------------------------------------------------------------


def annealed_in_a_buffer(net: Net, h: Tensor) -> Tensor:
    net.warmth.mul_(0.9)
    return h / net.warmth


def averaged_in_a_buffer(net: Net, h: Tensor) -> Tensor:
    net.mean.mul_(0.9).add_(h.detach().mean(0))
    return h + net.mean


def normalised_weight(net: Net, h: Tensor) -> Tensor:
    return h + F.linear(h, F.normalize(net.second.weight, dim=1), net.second.bias)


def noise_of_the_constructor(net: Net, h: Tensor) -> Tensor:
    return h + net.noise


def frozen_by_detach(net: Net, h: Tensor) -> Tensor:
    return h + F.linear(h, net.second.weight.detach())


# -- draws -----------------------------------------------------------------------------------------------


def drawn_by_python(net: Net, h: Tensor) -> Tensor:
    return h * 2 if random.random() < 0.5 else h


def drawn_by_a_bound_name(net: Net, h: Tensor) -> Tensor:
    return h * (1 + draw())


def shuffled(net: Net, h: Tensor) -> Tensor:
    order = list(range(WIDTH))
    random.shuffle(order)
    return h[:, order]


def drawn_by_numpy(net: Net, h: Tensor) -> Tensor:
    return h * float(np.random.rand())


def drawn_by_an_own_generator(net: Net, h: Tensor) -> Tensor:
    return h * float(net.numpys.random())


def drawn_by_a_module_generator(net: Net, h: Tensor) -> Tensor:
    return h * float(SHARED.random())


def drawn_by_an_own_random(net: Net, h: Tensor) -> Tensor:
    return h * net.own.random()


def seeded_by_a_bound_name(net: Net, h: Tensor) -> Tensor:
    seed_all(7)
    return h + torch.randn(WIDTH)


def state_set(net: Net, h: Tensor) -> Tensor:
    state = torch.get_rng_state()
    one = F.dropout(h, 0.5)
    torch.set_rng_state(state)
    return one + F.dropout(h, 0.5)


def forked_and_seeded(net: Net, h: Tensor) -> Tensor:
    with torch.random.fork_rng():
        torch.random.manual_seed(1)
        return h + torch.randn(WIDTH)


# -- the time and its like -------------------------------------------------------------------------------


def timed(net: Net, h: Tensor) -> Tensor:
    return h * (1 + time.perf_counter() % 1)


def identified(net: Net, h: Tensor) -> Tensor:
    return h * (uuid.uuid4().int % 1009)


def by_system(net: Net, h: Tensor) -> Tensor:
    return h * random.SystemRandom().random()


# -- modes, contexts and flags ---------------------------------------------------------------------------


def under(context: Callable[[], Any]) -> Callable[[Net, Tensor], Tensor]:
    def habit(net: Net, h: Tensor) -> Tensor:
        with context():
            return h + torch.tanh(net.second(h))

    return habit


def left(change: Callable[[], object]) -> Callable[[Net, Tensor], Tensor]:
    def habit(net: Net, h: Tensor) -> Tensor:
        change()
        return h

    return habit


@torch.no_grad()
def decorated_no_grad(net: Net, h: Tensor) -> Tensor:
    return net.second(h)


@torch.inference_mode()
def decorated_inference(net: Net, h: Tensor) -> Tensor:
    return net.second(h).sum()


def graded_again(net: Net, h: Tensor) -> Tensor:
    with torch.no_grad():
        one = net.second(h)
        with torch.enable_grad():
            two = net.second(h)
    return h + one + two


def set_and_reset(net: Net, h: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    one = net.second(h)
    torch.set_grad_enabled(True)
    return h + one


@contextlib.contextmanager
def reset(read: Callable[[], Any], write: Callable[[Any], None], value: Any) -> Any:
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def autocast_set(net: Net, h: Tensor) -> Tensor:
    torch.set_autocast_enabled("cpu", True)
    try:
        return h + net.second(h).float()
    finally:
        torch.set_autocast_enabled("cpu", False)


def attended(net: Net, h: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(h[None], h[None], h[None])[0]


def autocast_in(dtype: torch.dtype) -> Callable[[Net, Tensor], Tensor]:
    def habit(net: Net, h: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return h + net.second(h).float()

    return habit


# -- checkpointing ---------------------------------------------------------------------------------------


def again(function: Callable[[Net, Tensor], Tensor], **how: Any) -> Callable[[Net, Tensor], Tensor]:
    def habit(net: Net, h: Tensor) -> Tensor:
        return checkpoint(functools.partial(function, net), h, **how)

    return habit


def normalised(net: Net, h: Tensor) -> Tensor:
    return torch.tanh(net.second(net.norm(h)))


def normalised_last(net: Net, h: Tensor) -> Tensor:
    return net.norm(net.second(h))


def normalised_twice(net: Net, h: Tensor) -> Tensor:
    return net.norm(torch.tanh(net.norm(h)) + h)


def nested(**how: Any) -> Callable[[Net, Tensor], Tensor]:
    def habit(net: Net, h: Tensor) -> Tensor:
        inner = functools.partial(normalised, net)
        return checkpoint(lambda value: torch.tanh(checkpoint(inner, value, **how)) * 2, h, **how)

    return habit


def twice(**how: Any) -> Callable[[Net, Tensor], Tensor]:
    def habit(net: Net, h: Tensor) -> Tensor:
        inner = functools.partial(normalised, net)
        h = checkpoint(inner, h, **how)
        h = net.norm(h)
        return checkpoint(inner, h, **how)

    return habit


def sequential(net: Net, h: Tensor) -> Tensor:
    parts = nn.Sequential(net.norm, nn.Tanh(), net.second, nn.Tanh())
    return checkpoint_sequential(parts, 2, h, use_reentrant=False)


def frozen_inside(**how: Any) -> Callable[[Net, Tensor], Tensor]:
    def habit(net: Net, h: Tensor) -> Tensor:
        return h + checkpoint(functools.partial(normalised, net), h.detach(), **how)

    return habit


HABITS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    name: each
    for name, each in list(globals().items())
    if callable(each) and getattr(each, "__module__", "") == __name__ and getattr(each, "__annotations__", {}).get("h")
} | {
    "kernel chosen": attended,
    "flash off": under(
        lambda: reset(torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp, False)
    ),
    "mkldnn off": under(lambda: torch.backends.mkldnn.flags(enabled=False)),
    "cudnn flags": under(lambda: torch.backends.cudnn.flags(benchmark=True)),
    "matmul precision": under(
        lambda: reset(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium")
    ),
    "inference": under(torch.inference_mode),
    "default dtype": under(lambda: reset(torch.get_default_dtype, torch.set_default_dtype, torch.float64)),
    "threads": under(lambda: reset(torch.get_num_threads, torch.set_num_threads, 2)),
    "anomaly": under(torch.autograd.detect_anomaly),
    "function mode": under(Doubling),
    "dispatch mode": under(Watching),
    "saved tensors packed": under(
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda each: each.bfloat16(), lambda each: each.float())
    ),
    "saved on the CPU": under(torch.autograd.graph.save_on_cpu),
    "no grad": under(torch.no_grad),
    "grad set": under(lambda: torch.set_grad_enabled(False)),
    "precision left": left(lambda: torch.set_float32_matmul_precision("medium")),
    "deterministic left": left(lambda: torch.use_deterministic_algorithms(True)),
    "denormals left": left(lambda: torch.set_flush_denormal(True)),
    "grad left": left(lambda: torch.set_grad_enabled(False)),
    "bf16 inside": autocast_in(torch.bfloat16),
    "fp16 inside": autocast_in(torch.float16),
    "reentrant": again(normalised, use_reentrant=True),
    "not reentrant": again(normalised, use_reentrant=False),
    "reentrant last": again(normalised_last, use_reentrant=True),
    "not reentrant last": again(normalised_last, use_reentrant=False),
    "norm twice in one": again(normalised_twice, use_reentrant=False),
    "norm twice in one, reentrant": again(normalised_twice, use_reentrant=True),
    "nested": nested(use_reentrant=False),
    "nested, reentrant": nested(use_reentrant=True),
    "norm shared": twice(use_reentrant=False),
    "norm shared, reentrant": twice(use_reentrant=True),
    "frozen input": frozen_inside(use_reentrant=False),
    "frozen input, reentrant": frozen_inside(use_reentrant=True),
}


class Rows:
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(5))
    y = torch.arange(16) % 4

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": self.y[index]}


def rows() -> Rows:
    return Rows()


def make(kind: str) -> Net:
    return Net(kind)


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])
