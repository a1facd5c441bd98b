"""One habit, one verdict: a job planned and executed, beside a plain loop that shares no code with hydraplan.

`habit` enters a model class as a row; its options say what is right. The lines that a refusal may name end in
`# habit` within the class, or in `# habit: Class` where they stand elsewhere in the module.
"""

from __future__ import annotations

import importlib
import inspect
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from support.whole import cluster, read_result
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from hydraplan.planner import SolverOptions, plan
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.planner.study import study
from hydraplan.plans.language.errors import TraceError, WorkloadError
from hydraplan.plans.language.workload import Job, Target, Value, Workload
from hydraplan.runtime import execute

WIDTH = 32
Expectation = Literal["equal", "refused", "either"]
"""`either`: equal or refused, never other bits."""


# -- what most rows share: a small classifier and its data ----------------------------------------------


class Trunk(nn.Module):
    """16 numbers -> 8 classes; a habit changes `middle`, which maps [rows, 32] to [rows, 32]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.last = nn.Linear(16, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)

    def middle(self, h: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.hidden(self.middle(torch.tanh(self.first(x))))))


class Rows:
    """16 rows, the same at every call."""

    x = torch.randn(16, 16, generator=torch.Generator().manual_seed(5))
    y = torch.arange(16) % 8

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": self.y[index]}


class Tokens(Rows):
    """16 rows of 8 tokens."""

    tokens = torch.randint(0, 40, (16, 8), generator=torch.Generator().manual_seed(6))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index].clone()}


class MaskedTokens(Tokens):
    """With the mask of ones that a tokenizer gives for rows of one length."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return super().__getitem__(index) | {"attention_mask": torch.ones(8, dtype=torch.long)}


def classify(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


# -- the table ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    kind: str
    name: str
    expect: Expectation
    path: str
    arguments: tuple[tuple[str, Value], ...] = ()
    remedy: str | None = None
    """The model with the remedy followed, or `data:` and the data set with it, in the same module."""
    says: str = ""
    """What a refusal has to say, as a regular expression: the remedy's words where the issue fixes them."""
    data: str = "habits.harness:Rows"
    loss: str | None = "habits.harness:classify"
    microbatches: int = 1
    """2 only where each parameter is read at one place: hydraplan sums by place first, which no plain loop can."""
    seeds: tuple[int, ...] = (5,)
    optimizer: str = "AdamW"
    cuts: int = 3
    budget_bytes: int | None = None
    """With it, the planner's own cuts for this budget, instead of `cuts` evenly spread ones."""
    precision: str = "fp32"
    forget: str | None = None
    """A module that hydraplan has to be the first to import."""

    @property
    def jobs(self) -> tuple[Job, ...]:
        rates = {"AdamW": (("lr", 0.01), ("weight_decay", 0.1)), "SGD": (("lr", 0.05), ("momentum", 0.9))}
        return tuple(
            Job(
                name=f"seed{seed}",
                model=Target(path=self.path, arguments=self.arguments),
                data=Target(path=self.data),
                loss=None if self.loss is None else Target(path=self.loss),
                optimizer=Target(path=self.optimizer, arguments=rates[self.optimizer]),
                steps=5 if "Augment" in self.data else 3,
                batch_size=4,
                microbatches=self.microbatches,
                seed=seed,
                threads=1,
                precision=self.precision,  # type: ignore[arg-type]
            )
            for seed in self.seeds
        )

    @property
    def mended(self) -> Case:
        assert self.remedy is not None, f"{self.kind} {self.name} was refused, and the corpus has no remedy to try"
        module = self.path.partition(":")[0]
        if self.remedy.startswith("data:"):
            return replace(self, data=f"{self.data.partition(':')[0]}:{self.remedy[5:]}", expect="equal")
        if self.remedy.startswith("loss:"):
            return replace(self, loss=f"{module}:{self.remedy[5:]}", expect="equal")
        return replace(self, path=f"{module}:{self.remedy}", expect="equal")


CASES: dict[str, Case] = {}


def enter(case: Case) -> None:
    key = f"{case.kind}-{case.name}"
    assert key not in CASES
    CASES[key] = case


def habit(kind: str, expect: Expectation, remedy: str | None = None, **more: Any) -> Callable[[Any], Any]:
    """Enter a model class, or a function that makes a model, as a row of the table."""

    def entered(model: Any) -> Any:
        local = {
            key: f"{model.__module__}:{more.pop(key)}" for key in ("data", "loss") if ":" not in (more.get(key) or ":")
        }
        path = f"{model.__module__}:{model.__name__}"
        enter(Case(kind=kind, name=model.__name__, expect=expect, path=path, remedy=remedy, **more, **local))
        return model

    return entered


def habit_lines(case: Case) -> set[tuple[str, int]]:
    """(file, line) of what the row is about."""
    found = set()
    for target in {case.path, case.data, case.loss or case.path}:
        module_name, _, name = target.partition(":")
        module = importlib.import_module(module_name)
        file, text = Path(module.__file__ or "").name, Path(module.__file__ or "").read_text().splitlines()
        lines, first = inspect.getsourcelines(getattr(module, name))
        own = range(first, first + len(lines))
        for number, line in enumerate(text, 1):
            if (number in own and re.search(r"# habit$", line)) or re.search(rf"# habit:.*\b{case.name}\b", line):
                found.add((file, number))
    return found


# -- the two runs ---------------------------------------------------------------------------------------


@contextmanager
def generators() -> Iterator[None]:
    """The three process-wide generators, back as they were afterwards."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(of_python)
    np.random.set_state(of_numpy)


@contextmanager
def settings() -> Iterator[None]:
    """What a habit may set in the process, back as it was afterwards."""
    grad, kind, precision = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_float32_matmul_precision()
    flags = (torch.backends.mkldnn.enabled, torch.are_deterministic_algorithms_enabled(), torch.get_num_threads())
    kernels = {
        name: getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in ("flash", "math", "mem_efficient")
    }
    try:
        yield
    finally:
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(kind)
        torch.set_float32_matmul_precision(precision)
        torch.set_flush_denormal(False)
        torch.backends.mkldnn.enabled = flags[0]
        torch.use_deterministic_algorithms(flags[1])
        torch.set_num_threads(flags[2])
        for name, value in kernels.items():
            getattr(torch.backends.cuda, f"enable_{name}_sdp")(value)


@dataclass(frozen=True, kw_only=True)
class Trained:
    losses: tuple[float, ...]
    state: dict[str, Tensor]


def made_model(job: Job) -> nn.Module:
    module, _, name = job.model.path.partition(":")
    make, arguments = getattr(importlib.import_module(module), name), dict(job.model.arguments)
    if module == "transformers":
        return make(make.config_class(**arguments))
    return make(**arguments)


def tree(parts: Sequence[Tensor]) -> Tensor:
    """EXACTNESS.md, rule 14: split after the largest power of two below the count."""
    if len(parts) == 1:
        return parts[0]
    half = 1 << ((len(parts) - 1).bit_length() - 1)
    return tree(parts[:half]) + tree(parts[half:])


def plain(job: Job) -> Trained:
    """The job as its user trains it in PyTorch alone; only batches come from hydraplan's order of items."""
    data = open_data(job)
    loss_of: Callable[..., Any] = lambda model, batch: model(**batch).loss  # noqa: E731
    if job.loss is not None:
        module, _, name = job.loss.path.partition(":")
        loss_of = getattr(importlib.import_module(module), name)
    with generators(), settings():
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        random.seed(job.seed)
        np.random.seed(job.seed)
        model = made_model(job)
        if not model.training:
            model.train()
        parameters = [each for each in model.parameters() if each.requires_grad]
        optimizer = getattr(torch.optim, job.optimizer.path)(parameters, fused=True, **dict(job.optimizer.arguments))
        losses = []
        for step in range(job.steps):
            fresh: dict[int, list[Tensor]] = {number: [] for number in range(len(parameters))}
            shares = []
            for microbatch in range(job.microbatches):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "autocast", cache_enabled=False):
                    loss = loss_of(model, data.microbatch(step, microbatch))
                loss.backward(torch.full_like(loss, 1 / job.microbatches))
                shares.append(float(loss.detach()))
                for number, parameter in enumerate(parameters):
                    if parameter.grad is not None:
                        fresh[number].append(parameter.grad)
            for number, parameter in enumerate(parameters):
                parameter.grad = tree(fresh[number]) if fresh[number] else None
            optimizer.step()
            losses.append(sum(shares) / job.microbatches)
        state = {
            name: value.detach().clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)
        }
    return Trained(losses=tuple(losses), state=state)


def planned(case: Case) -> Any:
    jobs = case.jobs
    with generators():
        if case.budget_bytes is not None:
            workload = Workload(cluster=cluster(1, budget_bytes=case.budget_bytes), jobs=jobs)
            return plan(workload, solver=SolverOptions(effort=1000))
        known = study(jobs)
        cuts = {}
        for job in jobs:
            positions = known.facts_of(job.name).cut_positions
            spread = {positions[(i + 1) * len(positions) // (case.cuts + 1)] for i in range(case.cuts) if positions}
            cuts[job.name] = tuple(sorted(spread))
        workload = Workload(cluster=cluster(1), jobs=jobs)
        return plan(workload, studied=known, cuts=cuts, solver=SolverOptions(effort=1000))


def same(left: Tensor, right: Tensor) -> bool:
    """To the bit, NaN and negative zero too."""
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and torch.equal(*(each.contiguous().flatten().view(torch.uint8) for each in (left, right)))
    )


def differences(found: Trained, right: Trained) -> list[str]:
    said = []
    if str(found.losses) != str(right.losses):
        said.append(f"losses {found.losses}, right are {right.losses}")
    for name, value in right.state.items():
        if name in found.state:
            if not same(value, found.state[name]):
                said.append(f"{name} differs")
        elif not any(same(value, other) for other in found.state.values()):
            said.append(f"{name} is missing, and is no copy of what was saved")
    said += [f"{name} is none of the model's" for name in found.state if name not in right.state]
    return said


def trains_equal(case: Case, made: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        with settings(), generators():
            done = execute(made, Path(directory) / "run")
        assert not done.failed, f"planned, then failed: {[each.error for each in done.failed]}"
        for job in case.jobs:
            result = read_result(Path(directory) / "run", job.name)
            found = Trained(losses=result.losses, state=result.weights)
            assert not (other := differences(found, plain(job))), f"OTHER BITS of {job.name}: {'; '.join(other)}"


def fakes(case: Case) -> set[int]:
    """Tensors without values in the globals of the user's modules, by id."""
    modules = {case.path.partition(":")[0], case.data.partition(":")[0], case.forget or ""} & sys.modules.keys()
    values = [value for each in modules for value in vars(sys.modules[each]).values()]
    flat = [each for value in values for each in (value if isinstance(value, (list, tuple)) else [value])]
    flat += [each for value in values if isinstance(value, dict) for each in value.values()]
    return {id(each) for each in flat if isinstance(each, Tensor) and (each.is_meta or type(each) is FakeTensor)}


def check(case: Case) -> None:
    """The verdict; AssertionError says what is not right."""
    if case.forget is not None:
        sys.modules.pop(case.forget, None)
    before = fakes(case)
    verdict(case)
    assert fakes(case) <= before, "tensors without values were left in the user's module"


def verdict(case: Case) -> None:
    try:
        with settings():
            made = planned(case)
    except (TraceError, WorkloadError) as refusal:
        message = str(refusal)
    else:
        assert case.expect != "refused", "planned, but it cannot be right"
        return trains_equal(case, made)
    assert case.expect != "equal", f"REFUSED: {message}"
    if case.kind == "data that differ":  # no line of it is wrong by itself: the data set and the item are named
        assert re.search(rf"{case.data}: item \d+ .*\bx\b", message), message
    places = {(file, int(line)) for file, line in re.findall(r"([\w.]+\.py):(\d+)", message)}
    found = case.kind == "data that differ" or places & habit_lines(case)
    assert found, f"the refusal does not name {sorted(habit_lines(case))}: {message}"
    assert re.search(r"; \w+", message), f"the refusal has no remedy: {message}"
    assert re.search(case.says, message), f"the refusal does not say {case.says!r}: {message}"
    mended = case.mended
    try:
        with settings():
            made = planned(mended)
    except (TraceError, WorkloadError) as again:
        raise AssertionError(f"REMEDY REFUSED: {again}") from None
    return trains_equal(mended, made)
