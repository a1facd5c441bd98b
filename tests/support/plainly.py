"""A job trained as its user would without hydraplan: nothing of ours but its data, in the order that it has.

Models, losses and data of the tests' habits are named `module:callable`; `habit` plans a job with cuts, executes it and
gives what both ways end with.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.whole import Result, cluster, run

from hydraplan.planner import plan
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.language.workload import Job, Target, Value, Workload


def plainly(job: Job) -> Result:
    """Losses and the state_dict after a plain loop of one microbatch a step."""
    assert job.microbatches == 1 and job.precision == "fp32"
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    torch.set_num_threads(job.threads)
    torch.use_deterministic_algorithms(True)
    try:
        random.seed(job.seed)
        np.random.seed(job.seed % 2**32)
        torch.manual_seed(job.seed)
        model = _named(job.model)
        if not model.training:
            model.train()
        trained = [each for each in model.parameters() if each.requires_grad]
        optimizer = getattr(torch.optim, job.optimizer.path)(trained, fused=True, **dict(job.optimizer.arguments))
        loss_of = _callable(job.loss.path) if job.loss is not None else None
        arguments = dict(job.loss.arguments) if job.loss is not None else {}
        data, losses = open_data(job), []
        for step in range(job.steps):
            optimizer.zero_grad(set_to_none=True)
            batch = data.batch(step)
            loss = model(**batch).loss if loss_of is None else loss_of(model, batch, **arguments)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return Result(
            losses=tuple(losses),
            weights={
                name: value.detach().clone() for name, value in model.state_dict().items() if torch.is_tensor(value)
            },
        )
    finally:
        torch.use_deterministic_algorithms(False)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _callable(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _named(target: Target) -> Any:
    return _callable(target.path)(**dict(target.arguments))


def habit_job(model: str, *, data: str, loss: str | None, arguments: Mapping[str, Value] = {}, **more: object) -> Job:
    """A job of three steps of four items."""
    fields: dict[str, Any] = dict(
        name="habit",
        model=Target(path=model, arguments=tuple(sorted(arguments.items()))),
        data=Target(path=data),
        loss=None if loss is None else Target(path=loss),
        optimizer=Target(path="AdamW", arguments=(("lr", 0.01), ("weight_decay", 0.1))),
        steps=3,
        batch_size=4,
        microbatches=1,
        seed=3,
        threads=1,
        precision="fp32",
    )
    return Job(**(fields | more))


def planned(job: Job, directory: Path) -> Result:
    """What the job ends with when it is planned and executed."""
    made = plan(Workload(cluster=cluster(1), jobs=(job,)))
    return run(made, directory)[job.name]


def differences(job: Job, directory: Path) -> list[str]:
    """Where a planned run differs from a plain one: nowhere is right."""
    expected, found = plainly(job), planned(job, directory)
    names = [name for name in expected.weights if not torch.equal(expected.weights[name], found.weights[name])]
    missing = sorted(expected.weights.keys() ^ found.weights.keys())
    return [*(["losses"] if expected.losses != found.losses else []), *names, *missing]
