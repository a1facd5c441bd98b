"""Trace a job: its model under fake tensors, its loss by torch.export, normalised and ready to be cut.

Nothing is allocated: the model is made under a fake tensor mode, so that its parameters have shapes and no
values. `planner.frontend.shards.build` traces the real model in the same way and has to find the same graph.
"""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec
from torch.fx import Graph, Node
from torch.utils._pytree import tree_flatten

import hydraplan.planner.frontend.tracing.kernels  # noqa: F401 - torch's fake tensors know more kernels from here on
from hydraplan.planner.frontend.models.conversions import converting_fake_modules
from hydraplan.planner.frontend.models.fakes import making_fakes, without_values
from hydraplan.planner.frontend.models.leftovers import nothing_left
from hydraplan.planner.frontend.models.model import MODEL, Loss, import_all, make_loss
from hydraplan.planner.frontend.models.quiet import quiet
from hydraplan.planner.frontend.models.saved import saved_names
from hydraplan.planner.frontend.models.sharing import refuse_written, saved_on_one_memory, shared_memory
from hydraplan.planner.frontend.tracing.alike import as_one, constant_name
from hydraplan.planner.frontend.tracing.answers import ANSWERS, answering
from hydraplan.planner.frontend.tracing.buffers import written_back
from hydraplan.planner.frontend.tracing.cuts import cut_positions, recomputed_nodes
from hydraplan.planner.frontend.tracing.evaluation import mapped
from hydraplan.planner.frontend.tracing.functions import recorded
from hydraplan.planner.frontend.tracing.generators import generators_refused
from hydraplan.planner.frontend.tracing.modes import modes_as_nodes
from hydraplan.planner.frontend.tracing.normalize import normalize, source_of, updated_buffers
from hydraplan.planner.frontend.tracing.operators import base_name
from hydraplan.planner.frontend.tracing.refusals import because, where
from hydraplan.planner.frontend.tracing.repeat import refuse_unrepeatable
from hydraplan.planner.frontend.tracing.stacks import users_lines
from hydraplan.planner.frontend.tracing.traced import Placeholder, Role, Source, TracedGraph
from hydraplan.planner.frontend.tracing.unnoticed import unnoticed
from hydraplan.planner.frontend.users.lengths import examples
from hydraplan.planner.frontend.users.seeding import seeded
from hydraplan.planner.frontend.users.usercode import RAISED
from hydraplan.plans.language.errors import HydraplanError, TraceError
from hydraplan.plans.language.workload import Job, Precision

PREFIX = MODEL + "."
ROLES: dict[InputKind, Role] = {
    InputKind.PARAMETER: "parameter",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "constant",
    InputKind.USER_INPUT: "batch",
}


MAKING = (
    "check the arguments in the job's model; while planning the model is made without memory, so that its constructor "
    "may depend on shapes and types, but not on values of tensors (no .item(), no numpy)"
)
"""What to do where a model cannot be made."""
TOLD = "told"
"""Of an exported program's graph module, in its `meta`: why the model was told that it is traced."""
NOT_AS_A_PLAIN_LOOP = (
    "(as its plain loop runs it; told that it is being traced, the model traces, and may then do other arithmetic: "
    "compare with your plain loop)"
)


def trace(job: Job, batch: Mapping[str, Tensor]) -> TracedGraph:
    """The job's graph, from one microbatch as the data set gives it; no weights are allocated.

    Raises TraceError, naming the module and line where tracing stopped, WorkloadError where the model cannot
    be made.
    """
    import_all(job)
    with nothing_left():
        with seeded(job.seed) as drawn, making_fakes(), converting_fake_modules(), naming_model(job):
            module = make_loss(job)
        for _, tensor in named_tensors(module):
            without_values(tensor)
        unseen = _refuse_unrepeatable(job, module, examples(job, batch)[-1])
        traced = traced_buckets(job, module, exported_buckets(job, module, batch))
    return replace(traced, notices=(*module.notices, *traced.notices, *unseen), made_by_chance=bool(drawn))


def _refuse_unrepeatable(job: Job, module: Loss, batch: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What the user should know where it cannot be told whether the forward is the same in each step."""
    _check_batch(job, batch)
    _check_hooks(job, module)
    mode, example = _example(module, batch)
    reason = refuse_unrepeatable(job.name, module, example, mode)
    if reason is None:
        return ()
    return (f"whether the forward is the same in each step could not be seen without tracing it ({reason})",)


def exported_buckets(job: Job, module: Loss, batch: Mapping[str, Tensor]) -> tuple[ExportedProgram, ...]:
    """The loss exported at every bucket of the job, ascending; of a job without lengths once."""
    return tuple(export(job, module, example) for example in examples(job, batch))


def traced_buckets(job: Job, module: Loss, programs: Sequence[ExportedProgram]) -> TracedGraph:
    """What was exported at every bucket as one graph. Raises TraceError where the buckets' graphs are not alike."""
    if len(programs) == 1:
        return traced_module(job, module, programs[0])
    buckets = job.lengths.buckets if job.lengths is not None else ()
    largest = traced_module(job, module, programs[-1], bucket=buckets[-1])
    shorter = [
        traced_module(job, module, program, bucket=bucket, largest=largest)
        for program, bucket in zip(programs, buckets, strict=False)
        if bucket != buckets[-1]
    ]
    try:
        return as_one([*shorter, largest], buckets)
    except TraceError as error:
        raise TraceError(f"job {job.name}: {error}") from None


@contextmanager
def naming_model(job: Job) -> Iterator[None]:
    """Turn what the user's model code raises while the model is made into a TraceError."""
    try:
        with quiet():
            yield
    except HydraplanError:
        raise
    except RAISED as error:
        raise TraceError(
            f"job {job.name}: making model {job.model.path!r} stopped in {_made_in(error)}: {because(error, MAKING)}"
        ) from error


def export(job: Job, module: Loss, batch: Mapping[str, Tensor]) -> ExportedProgram:
    """torch.export of the loss in training mode, for one microbatch's shapes, as a plain loop runs it if possible."""
    _check_batch(job, batch)
    _check_hooks(job, module)
    mode, example = _example(module, batch)
    try:
        with unnoticed(), answering(module, batch) as asked:
            program = _exported(module, example, mode)
            program.graph_module.meta[ANSWERS] = tuple(asked.answers)
            return program
    except RAISED as error:  # the user's own code under torch.export: anything may come out of it
        stopped = str(_trace_error(job, module, error))
    try:  # it may do what can be traced where it knows that it is
        program = _exported(module, example, mode)
        program.graph_module.meta[TOLD] = f"{stopped.partition(': ')[2]} {NOT_AS_A_PLAIN_LOOP}"
        return program
    except RAISED as error:
        raise _trace_error(job, module, error) from error


def _example(module: Loss, batch: Mapping[str, Tensor]) -> tuple[FakeTensorMode, dict[str, Tensor]]:
    """A fake microbatch, and the mode that it and the model's tensors are of."""
    mode = _fake_mode(module) or FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        # One fake tensor a name: torch.export takes one tensor under two names for one input.
        return mode, {name: torch.empty(value.shape, dtype=value.dtype) for name, value in batch.items()}


def _exported(module: Loss, example: dict[str, Tensor], mode: FakeTensorMode) -> ExportedProgram:
    with quiet(), mode, modes_as_nodes(), recorded(), written_back(module), generators_refused(), users_lines():
        return torch.export.export(module, (example,), strict=False)


def traced_module(
    job: Job,
    module: Loss,
    program: ExportedProgram,
    *,
    bucket: int | None = None,
    largest: TracedGraph | None = None,
) -> TracedGraph:
    """Normalise an exported loss; `module` is the (fake or real) model that it was exported from.

    `bucket`: of several that the job has, the one that this is exported at; `largest`: the largest bucket's graph,
    which says what is computed again.
    """
    try:
        described = _describe(module, program, bucket)
        graph, evaluation = normalize(program.graph, described, MODEL)
    except TraceError as error:
        raise TraceError(f"job {job.name}: {error}") from None
    updated = updated_buffers(graph, evaluation)
    described = {node: replace(each, updated=each.node in updated) for node, each in described.items()}
    nodes = tuple(node for node in graph.nodes if node.op == "call_function")
    (loss,) = (node for node in graph.nodes if node.op == "output")
    _check_loss(job, loss.all_input_nodes)
    placeholders = tuple(described[node.name] for node in graph.nodes if node.op == "placeholder")
    recomputed = recomputed_nodes(nodes, described, evaluation)
    read = {each.name for each in placeholders}
    tensors = dict(named_tensors(module.model))
    saved = saved_names(module.model)
    memory = shared_memory({name: tensors[name] for name in canonical_names(module.model).values()}, job.precision)
    saved = saved_on_one_memory(saved, memory, [each.name for each in placeholders])
    refuse_written(job.name, [each.name for each in placeholders if each.updated and each.memory])
    return TracedGraph(
        digest=_digest(graph, placeholders, job.precision),
        precision=job.precision,
        graph=graph,
        placeholders=placeholders,
        nodes=nodes,
        requires_grad={node.name: node.meta["requires_grad"] for node in graph.nodes if node.op != "output"},
        recomputed=recomputed,
        cut_positions=cut_positions(nodes, recomputed if largest is None else largest.recomputed, evaluation),
        loss=loss.all_input_nodes[0].name,
        unread=tuple(sorted(set(saved.values()) - read)),
        saved_names=saved,
        notices=tuple(program.graph_module.meta[key] for key in (TOLD,) if key in program.graph_module.meta),
        answers=program.graph_module.meta.get(ANSWERS, ()),
        construction_bytes=_construction_bytes(module),
    )


def _construction_bytes(module: Loss) -> int:
    """Tensors move into the store one by one, each freed when it is there; those still in a checkpoint need no room
    but there.

    Before that, a model makes a tensor for each name and ties them last (measured: GPT-2's peak is its tensors plus one
    more embedding; initialisation works in place). Those in bf16 are made in fp32, which stays as their masters. What a
    checkpoint's loading converts stands there twice while the parts are put together, and once more where that takes
    two operations (Mixtral's experts).
    """
    sizes = {name: tensor.nbytes for name, tensor in named_tensors(module.model)}
    canonical = canonical_names(module.model)
    as_made = {
        name: module.masters[first].nbytes if first in module.masters else sizes[name]
        for name, first in canonical.items()
    }
    distinct = set(canonical.values())
    read = [as_made[name] for name in distinct if name not in module.stored]
    largest = max(read, default=0)
    built = sum(read) + 2 * largest if module.from_checkpoint else sum(as_made.values())
    moved = sum(sizes[name] for name in distinct) + sum(master.nbytes for master in module.masters.values())
    return max(built, moved + largest)


# -- names --------------------------------------------------------------------------------------------


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of the same tensor."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for name, tensor in named_tensors(model):
        names[name] = first.setdefault(id(tensor), name)
    return names


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer under all its names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _describe(module: Loss, program: ExportedProgram, bucket: int | None) -> dict[str, Placeholder]:
    """Placeholder node's name -> what it stands for; nodes of one tied tensor share a description.

    `bucket`: constants bear its name; None: the only one.
    """
    canonical = canonical_names(module.model)
    tensors = dict(named_tensors(module.model))
    aliases: dict[str, list[str]] = defaultdict(list)
    for name, first in canonical.items():
        aliases[first].append(name)
    memory = shared_memory({name: tensors[name] for name in aliases}, module.precision)
    persistent = set(saved_names(module.model).values())
    keys, _ = tree_flatten({name: name for name in _batch_names(program)})
    batch_names = iter(keys)
    kept: dict[str, Placeholder] = {}
    described: dict[str, Placeholder] = {}
    for spec in program.graph_signature.input_specs:
        role = ROLES.get(spec.kind)
        node = getattr(spec.arg, "name", None)
        if role is None or node is None:
            raise TraceError(_strange_input(program, spec))
        given = next(batch_names) if role == "batch" else str(spec.target)
        given = given.removeprefix(PREFIX) if role != "batch" else given
        name = canonical.get(given, given)
        if role == "constant" and bucket is not None:
            name = constant_name(name, bucket)
        if role in ("batch", "constant") or name not in kept:
            trainable = role == "parameter" and tensors[name].requires_grad
            names = tuple(sorted(aliases[name])) if role in ("parameter", "buffer") else (name,)
            kept[name] = Placeholder(
                name=name,
                node=node,
                role=role,
                aliases=names,
                trainable=trainable,
                persistent=name in persistent,
                memory=memory.get(name, ""),
            )
        described[node] = kept[name]
    return described


def _strange_input(program: ExportedProgram, spec: InputSpec) -> str:
    """What to say of an input that is no tensor."""
    name = getattr(spec.arg, "name", None)
    readers = [user for node in program.graph.nodes if node.name == name for user in node.users]
    place = where(source_of(readers[0], MODEL)) if readers else "the model"
    return (
        f"{place}: the forward uses {spec.target or name!r} ({spec.kind.name.lower()}), which no graph holds: "
        "make a tensor of it, a buffer or a value of the batch"
    )


def _batch_names(program: ExportedProgram) -> list[str]:
    (example,), _ = program.example_inputs
    return list(example)


# -- digest -------------------------------------------------------------------------------------------


def _digest(graph: Graph, placeholders: tuple[Placeholder, ...], precision: Precision) -> str:
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    described = {each.node: each for each in placeholders}
    lines: list[str] = [precision]
    for node in graph.nodes:
        if node.op == "placeholder":
            each = described[node.name]
            what = f"{each.role} {each.name} {each.aliases} {each.trainable} {each.persistent}"
            what += f" {each.memory}" if each.memory else ""
        elif node.op == "call_function":
            what = f"{node.target} {base_name(node)}" if hasattr(node.target, "_schema") else base_name(node)
            what += f" {node.meta['context']}"
        else:
            what = node.op
        arguments = mapped((node.args, node.kwargs), lambda each: _Reference(numbers[each]))
        lines.append(f"{what} {arguments!r} {_form(node)}")
    return sha256("\n".join(lines).encode()).hexdigest()


class _Reference:
    """A node in a digest: its number, whatever its name."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"%{self.number}"


def _form(node: Node) -> str:
    value = node.meta.get("val")
    values: tuple[Any, ...] = value if isinstance(value, tuple) else (value,)
    return " ".join(
        f"{tuple(each.shape)}{_strides(each)}{each.dtype}" for each in values if isinstance(each, Tensor)
    ) + (" grad" if node.meta.get("requires_grad") else "")


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides, 1 in dimensions of one element, which move nothing: operators leave other ones on fake tensors there."""
    return tuple(1 if size == 1 else step for size, step in zip(tensor.shape, tensor.stride(), strict=True))


# -- errors -------------------------------------------------------------------------------------------


def _fake_mode(module: nn.Module) -> FakeTensorMode | None:
    for _, tensor in named_tensors(module):
        return getattr(tensor, "fake_mode", None)
    return None


def _check_batch(job: Job, batch: Mapping[str, Tensor]) -> None:
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            raise TraceError(
                f"job {job.name}: data {job.data.path!r} gives {name!r} as {type(value).__name__}; "
                "every value of a sample has to be a tensor"
            )


def _check_hooks(job: Job, module: Loss) -> None:
    for name, parameter in module.model.named_parameters():
        for hooks in (parameter._backward_hooks, getattr(parameter, "_post_accumulate_grad_hooks", None)):
            for hook in (hooks or {}).values():
                owner, _, short = name.rpartition(".")
                code = getattr(hook, "__code__", None)
                place = f"{code.co_filename}:{code.co_firstlineno}" if code else ""
                raise TraceError(
                    f"job {job.name}: {where(Source(module=owner, location=place))}: parameter {short!r} has a hook on "
                    "its gradient, which no graph holds: use a torch.autograd.Function in the forward"
                )


def _check_loss(job: Job, results: list[Node]) -> None:
    value = results[0].meta["val"] if results else None
    if not isinstance(value, Tensor) or value.numel() != 1 or not results[0].meta["requires_grad"]:
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        source: Source | None = results[0].meta.get("source") if results else None
        raise TraceError(
            f"job {job.name}: {where(source)}: the loss has to be one number with a "
            f"gradient; it has shape {shape}: return a mean or a sum, and train at least one parameter"
        )


def _trace_error(job: Job, module: nn.Module, error: BaseException) -> TraceError:
    paths = {id(each): path for path, each in module.named_modules()}
    stopped, location = "", ""
    for frame, line in _frames(error):
        owner = frame.f_locals.get("self")
        if id(owner) in paths and isinstance(owner, nn.Module):
            stopped = paths[id(owner)].removeprefix(MODEL).removeprefix(".")
        if _is_users(frame):
            location = f"{frame.f_code.co_filename}:{line}"
    return TraceError(
        f"job {job.name}: tracing stopped in {f'module {stopped!r}' if stopped else 'the model'} at "
        f"{location or 'an unknown line'}: {because(error)}"
    )


def _frames(error: BaseException) -> list[tuple[FrameType, int]]:
    return list(traceback.walk_tb(error.__traceback__))


def _is_users(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name.split(".")[0] not in ("torch", "contextlib", "functools") and not name.startswith("hydraplan.planner.")


def _made_in(error: BaseException) -> str:
    """The module whose constructor an error came out of, and the line."""
    found = [(frame, line) for frame, line in _frames(error) if _is_users(frame)]
    owners = [frame.f_locals.get("self") for frame, _ in found]
    kinds = [type(owner).__qualname__ for owner in owners if isinstance(owner, nn.Module)]
    location = f"{found[-1][0].f_code.co_filename}:{found[-1][1]}" if found else "an unknown line"
    return f"{f'module {kinds[-1]}' if kinds else 'its factory'} at {location}"
