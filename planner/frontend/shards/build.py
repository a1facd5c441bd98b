"""Build a job's real model on the CPU under its seed, and hand over its tensors by the graph's names.

The traced graph comes from the same code path as the planner's (EXACTNESS.md, rule 1), now on the real model: it
holds the values of the constants that tracing lifts out of the model's code. Parameters are not copied; those of a
checkpoint are not even read (`planner.frontend.models.loading`).
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from hydraplan.planner.frontend.models.loading import graph_cause, load_model, read_into
from hydraplan.planner.frontend.models.model import MODEL, import_all, make_loss
from hydraplan.planner.frontend.models.saved import form_of, has_extra_state, unwrapped
from hydraplan.planner.frontend.shards.program import BuiltModel
from hydraplan.planner.frontend.tracing.agreement import serves
from hydraplan.planner.frontend.tracing.alike import constant_name
from hydraplan.planner.frontend.tracing.trace import exported_buckets, named_tensors, naming_model, traced_buckets
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.frontend.users.lengths import examples
from hydraplan.planner.frontend.users.seeding import seeded
from hydraplan.plans.language.workload import Job


def same_graph_cause(job: Job, batch: Mapping[str, Tensor]) -> object:
    """What a job's graph is made from: jobs with equal causes have equal graphs."""
    shapes = tuple(
        (name, value.dtype, tuple(value.shape))
        for example in examples(job, batch)
        for name, value in example.items()  # in the items' order, which a loss may rely on
    )
    return (job.model, graph_cause(job), job.loss, job.precision, shapes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A graph traced before, with the values of its lifted constants: what jobs of one cause share."""

    graph: TracedGraph
    constants: Mapping[str, Tensor]
    seed: int | None
    """Whose graph and constants these are; None: every seed's."""

    @staticmethod
    def of(job: Job, model: BuiltModel, graph: TracedGraph) -> Known:
        placeholders = [each for bucket in graph.buckets for each in bucket.placeholders]
        names = [each.name for each in placeholders if each.role == "constant"]
        return Known(
            graph=graph,
            constants={name: model.tensors[name] for name in names},
            seed=job.seed if graph.made_by_chance or model.constants_made else None,
        )

    def serves(self, job: Job, batch: Mapping[str, Tensor]) -> bool:
        """Whether a job of the same cause has this graph, and these constants; `batch`: its first microbatch."""
        return (self.seed is None or self.seed == job.seed) and serves(self.graph, job, batch)


def build(job: Job, batch: Mapping[str, Tensor], *, known: Known | None = None) -> tuple[BuiltModel, TracedGraph]:
    """The job's initial weights, buffers and constants, and its graph; `batch` is one microbatch.

    `known`: from a job with the same `same_graph_cause`; its graph is taken as this job's, without tracing again.
    The process-wide random state is left as it was. Raises TraceError and WorkloadError as `trace` does.
    """
    import_all(job)
    with seeded(job.seed) as drawn, naming_model(job):
        module = make_loss(job, load_model(job) if job.checkpoint is not None else None)
        form = form_of(module.model, job.checkpoint is not None or job.model.path.startswith("transformers:"))
    model, stored = module.model, module.stored
    constants_made = False
    if known is None:
        before = _storages_alive()
        programs = exported_buckets(job, module, batch)
        traced = replace(traced_buckets(job, module, programs), made_by_chance=bool(drawn))
        constants = _constants(job, programs)
        constants_made = any(_storage(value) in before for value in constants.values())
    else:
        traced, constants = known.graph, dict(known.constants)
    tensors = constants | dict(named_tensors(model))
    for name in set(traced.unread) & set(stored):
        read_into(tensors[name], stored[name])
    return (
        BuiltModel(
            tensors={
                each.name: tensors[each.name]
                for graph in traced.buckets
                for each in graph.placeholders
                if each.role != "batch"
            },
            masters={
                each.name: module.masters[each.name]
                for each in traced.placeholders
                if each.trainable and each.name in module.masters
            },
            unread={name: tensors[name].detach() for name in traced.unread},
            saved_names=traced.saved_names,
            stored={each.name: stored[each.name] for each in traced.placeholders if each.name in stored},
            stored_masters={
                each.name: module.stored_masters[each.name]
                for each in traced.placeholders
                if each.trainable and each.name in module.stored_masters
            },
            model=unwrapped(model) if form.by != "state_dict" or has_extra_state(model) else None,
            form=form,
            constants_made=constants_made,
        ),
        traced,
    )


def _constants(job: Job, programs: Sequence[ExportedProgram]) -> dict[str, Tensor]:
    """The values of lifted constants, under the names that they have in the graphs of the job's buckets."""
    found: dict[str, Tensor] = {}
    for number, program in enumerate(programs):
        for name, value in program.constants.items():
            if isinstance(value, Tensor):
                name = name.removeprefix(MODEL + ".")
                if len(programs) > 1 and job.lengths is not None:
                    name = constant_name(name, job.lengths.buckets[number])
                found[name] = value
    return found


def _storages_alive() -> set[int]:
    """The memory of all tensors: constants that are there before a model is traced were made with it, or before."""
    tensors = [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter)]
    return {_storage(each) for each in tensors if not torch._C._functorch.is_functorch_wrapped_tensor(each)}


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
