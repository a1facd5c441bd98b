"""A forward runs twice before it is traced: is the second step the first one's graph, on what the first one left?

    state before -> forward -> state -> forward -> state        under fake tensors, without torch.export

    the same expressions, the same state         a model; a cache of masks, a map kept for a picture
    an attribute that goes on (calls += 1)       refused: no graph holds it
    other expressions                            refused: something in Python or a tensor is kept, or it asks the time
    Python's or numpy's generator drawn from     refused
    a parameter's memory, flag or hooks changed  refused

Then all is put back as it was, in the same objects, so that no fake tensor stays in the user's model.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_leaves

from hydraplan.planner.frontend.models.leftovers import nothing_left
from hydraplan.planner.frontend.models.model import Loss
from hydraplan.planner.frontend.models.quiet import quiet
from hydraplan.planner.frontend.tracing.buffers import written_back
from hydraplan.planner.frontend.tracing.entries import entries_refused
from hydraplan.planner.frontend.tracing.expressions import (
    CHANCE,
    CHANCE_REMEDY,
    FLAG_REMEDY,
    PARAMETER_REMEDY,
    Expressions,
    autocast_state,
    changed_flags,
)
from hydraplan.planner.frontend.tracing.flags import flags
from hydraplan.planner.frontend.tracing.functions import applications_noted
from hydraplan.planner.frontend.tracing.lines import first_change, is_users
from hydraplan.planner.frontend.tracing.refusals import UntraceableError, because, first_line, where
from hydraplan.planner.frontend.tracing.state import NOTHING, Change, Snapshot, read, roots_of
from hydraplan.planner.frontend.tracing.traced import Source
from hydraplan.planner.frontend.tracing.unnoticed import unnoticed
from hydraplan.planner.frontend.users.usercode import RAISED
from hydraplan.plans.language.errors import TraceError

KEEP_REMEDY = (
    "no graph holds what Python keeps from step to step: make it a buffer (register_buffer, written in place), compute "
    "it anew in each forward, or leave it out"
)
DRAW_REMEDY = (
    "draw with torch's functions (torch.rand), whose numbers follow from the job's seed, the step and the microbatch; "
    "what is drawn once for all belongs in the constructor"
)
REGISTER_REMEDY = (
    "register all parts, parameters and buffers where the model is made, in their shapes (zeros for what comes later)"
)
MODE_REMEDY = "leave it out: modes and hooks are set where the model is made, and stay"


def refuse_unrepeatable(name: str, module: Loss, batch: Mapping[str, Tensor], mode: FakeTensorMode) -> str | None:
    """Raises TraceError where a forward of the fake `module` is not the same again, with module and line.

    `name`: of the job. Returns why nothing can be said, where the forward does not run without being traced.
    """
    before = Snapshot(roots_of(module.model, module.loss))
    run = _Run(module, batch, mode)
    # A part that is compiled would be compiled here, and run on tensors without memory.
    with nothing_left(), quiet(), _as_it_was(), torch.compiler.set_stance("force_eager"):
        try:
            _compare(run, before)
        except UntraceableError as error:
            raise TraceError(f"job {name}: {_where(error, module)}: {because(error)}") from error
        except _Changed as changed:
            before.restore()
            source = first_change(run, changed.probe, module.model)
            raise TraceError(f"job {name}: {where(source)}: {changed}; {changed.remedy}") from None
        except RAISED as error:
            return first_line(error)
        finally:
            before.restore()
    return None


class _Changed(Exception):  # noqa: N818 - found where a run has ended; its line is not known yet
    def __init__(self, cause: str, remedy: str, probe: Callable[[], object]) -> None:
        super().__init__(cause)
        self.remedy = remedy
        self.probe = probe


class _Run:
    """The forward, callable again and again."""

    def __init__(self, module: Loss, batch: Mapping[str, Tensor], mode: FakeTensorMode) -> None:
        self.module = module
        self.batch = batch
        self.mode = mode
        self.loss: Tensor | None = None
        self.grad = True
        """Whether grad mode is on where the forward ends."""

    def __call__(self) -> None:
        with unnoticed(), _reading(self.mode), self.mode, torch.enable_grad():
            self.loss = self.module(dict(self.batch))
            self.grad = torch.is_grad_enabled()


def _compare(run: _Run, before: Snapshot) -> None:
    model = run.module.model
    expressions = _expressions_of(run, before)
    first, state = _once(run, expressions, model, before)
    expressions.begin()
    _name(expressions, run)
    second, later = _once(run, expressions, model, before)
    going_on = [each for each in state.changes(later) if not each.now.startswith("a tensor")]
    if first == second and not going_on:
        return
    kept = [text for number in second.values() for text in expressions.kept(number)]
    changed = before.changes(state)
    causes = going_on or [each for each in changed if "tensor" in each.now] if kept else going_on or changed
    if causes:
        cause = causes[0]
        raise _Changed(f"the forward changes {cause}", KEEP_REMEDY, _probe(cause))
    _stop_where_it_differs(run, expressions, model, before)
    told = f"it uses {kept[0]}, kept from the step before" if kept else CHANCE
    raise _Changed(told, KEEP_REMEDY if kept else CHANCE_REMEDY, int)


def _stop_where_it_differs(run: _Run, expressions: Expressions, model: nn.Module, before: Snapshot) -> None:
    """Run until a call is not that of the run before: UntraceableError there."""
    calls = expressions.calls
    expressions.begin()
    _name(expressions, run)
    _once(run, expressions, model, before)
    pairs = zip(calls, expressions.calls, strict=False)
    expressions.stop_at = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
    expressions.begin()
    _name(expressions, run)
    _once(run, expressions, model, before)


def _once(
    run: _Run, expressions: Expressions, model: nn.Module, before: Snapshot
) -> tuple[Mapping[str, int], Snapshot]:
    """A run's loss and buffers as expressions, and the state after it. Raises _Changed for what is always wrong."""
    generators = _generators()
    buffers = dict(model.named_buffers())
    with (
        written_back(run.module),
        entries_refused(),
        _autocast_followed(expressions),
        applications_noted(expressions.note_function),
        expressions,
    ):
        run()
        assert run.loss is not None
        found = {"the loss": expressions.number(run.loss)}
        found |= {name: expressions.number(each) for name, each in buffers.items()}
        state = Snapshot(roots_of(model, run.module.loss))
    drawn = _generators()
    for kind in drawn:
        if drawn[kind] != generators[kind]:
            raise _Changed(f"the forward draws from {kind}'s generator", DRAW_REMEDY, _generators)
    if flags() != expressions.outside or autocast_state() != expressions.autocast:
        error = changed_flags(expressions, "the forward leaves")
        raise _Changed(str(error), error.remedy, lambda: (flags(), autocast_state()))
    if not run.grad:
        raise _Changed("the forward leaves grad mode off", FLAG_REMEDY, torch.is_grad_enabled)
    for change in sorted(before.changes(state), key=lambda each: not each.registered):
        _refuse_at_once(change, model)
    return found, state


def _refuse_at_once(change: Change, model: nn.Module) -> None:
    """Raise _Changed for what no forward may change, whether its next run is the same or not."""
    told = f"the forward changes {_short(change)}"
    if change.registered and "training" not in change.path.rpartition(".")[2]:
        remedy = PARAMETER_REMEDY if "Parameter" in change.before + change.now else REGISTER_REMEDY
        raise _Changed(told, remedy, _registered(model))
    if change.before != NOTHING and ("_hooks" in change.path or change.path.endswith(".training")):
        raise _Changed(told, MODE_REMEDY, _probe(change))
    if "generator" in change.now.lower() or "random" in change.now.lower():
        what = f"{change.path}, which is {change.now.partition(' at ')[0]}"
        raise _Changed(f"the forward draws from {what}", DRAW_REMEDY, _probe(change))


def _short(change: Change) -> str:
    return f"{change.path} ({change.before.partition(' at ')[0]} before, {change.now.partition(' at ')[0]} after)"


def _probe(change: Change) -> Callable[[], object]:
    return lambda: read(change.owner)


def _registered(model: nn.Module) -> Callable[[], object]:
    return lambda: [
        *((name, each.requires_grad, each.untyped_storage()._cdata) for name, each in model.named_parameters()),
        *(name for name, _ in model.named_buffers()),
        *(name for name, _ in model.named_modules()),
    ]


def _expressions_of(run: _Run, before: Snapshot) -> Expressions:
    expressions = Expressions()
    for path, tensor in before.tensors.items():
        expressions.name(tensor, path, changes=False)
    _name(expressions, run)
    return expressions


def _name(expressions: Expressions, run: _Run) -> None:
    for name, tensor in run.module.model.named_buffers():
        expressions.name_buffer(tensor, name)
    for name, tensor in run.module.model.named_parameters():
        expressions.name_parameter(tensor, name)
    for name, value in run.batch.items():
        for each in tree_leaves(value):
            if isinstance(each, Tensor):
                expressions.name(each, f"batch value {name}", changes=True)


def _where(error: UntraceableError, module: Loss) -> str:
    """The innermost module and line of the user's that an error came through."""
    paths = {id(part): path for path, part in module.model.named_modules()}
    path, location = "", ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        owner = id(frame.f_locals.get("self"))
        path = paths.get(owner, path)
        if is_users(frame):
            location = f"{frame.f_code.co_filename}:{line}"
    return where(Source(module=path, location=location))


# -- what holds while it runs ---------------------------------------------------------------------------


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Generators and modes, whatever a forward does with them."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    grad = torch.is_grad_enabled()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
        torch._C._set_grad_enabled(grad)


@contextmanager
def _reading(mode: FakeTensorMode) -> Iterator[None]:
    """Let a number be read of a fake tensor, as torch.export does: what depends on it is refused there."""
    before = mode.shape_env
    mode.shape_env = ShapeEnv()
    try:
        yield
    finally:
        mode.shape_env = before


@contextmanager
def _autocast_followed(expressions: Expressions) -> Iterator[None]:
    """Note what torch.autocast sets: that is honoured."""
    kind = torch.amp.autocast_mode.autocast
    enter, leave = kind.__enter__, kind.__exit__

    def entering(self: Any) -> Any:
        result = enter(self)  # type: ignore[no-untyped-call]
        expressions.autocast = autocast_state()
        return result

    def leaving(self: Any, *error: Any) -> Any:
        result = leave(self, *error)
        expressions.autocast = autocast_state()
        return result

    kind.__enter__, kind.__exit__ = entering, leaving  # type: ignore[method-assign]
    try:
        yield
    finally:
        kind.__enter__, kind.__exit__ = enter, leave  # type: ignore[method-assign]


def _generators() -> dict[str, object]:
    numpys: Any = np.random.get_state()
    return {"Python": random.getstate(), "numpy": (numpys[0], bytes(np.asarray(numpys[1])), *numpys[2:])}
