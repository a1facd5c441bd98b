"""However a run ends, what had finished is kept and the record tells."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support.staggered import STEPS, assert_kept, first_losses, read_losses, staggered_plan, strict_json, undisturbed
from support.weights import saved_state

from hydraplan.plans.language.errors import RunError
from hydraplan.runtime import execute, execution
from hydraplan.runtime.progress import NoProgress
from hydraplan.runtime.replaying.crew import Abandoned
from hydraplan.runtime.replaying.updates import HostUpdates
from hydraplan.tools.run_report import read_report


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, torch.Tensor]], list[float]]:
    folder = tmp_path_factory.mktemp("expected")
    return undisturbed(folder / "run"), first_losses(folder / "last")


Expected = tuple[dict[str, dict[str, torch.Tensor]], list[float]]


class Broken(Exception):
    pass


class AfterFirst(NoProgress):
    """Does something once, at a step of the last job after the first has finished."""

    def __init__(self) -> None:
        self.first, self.done = threading.Event(), False

    def finish(self, job: str) -> None:
        if job == "first":
            self.first.set()

    def step(self, job: str, step: int, loss: float) -> None:
        if job == "last" and not self.done and self.first.is_set():
            self.done = True
            self.act()

    def act(self) -> None: ...


def test_a_fault_of_an_engine_ends_the_run_and_keeps_what_had_finished(tmp_path: Path, expected: Expected) -> None:
    shown = AfterFirst()
    steps_left = threading.Event()
    shown.act = steps_left.set  # type: ignore[method-assign]

    @contextmanager
    def context(device: str) -> Iterator[None]:
        yield

    class Worker(HostUpdates):
        def _pop(self) -> Any:
            if steps_left.is_set():
                raise Broken("out of order")
            return super()._pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hydraplan.runtime.replaying.replay.HostUpdates", Worker)
        with pytest.raises(RunError, match=r"broke off: Broken: out of order; .* the weights of first") as caught:
            execute(staggered_plan(), tmp_path / "run", progress=shown, compute_context=context)
    assert isinstance(caught.value.__cause__, Broken)
    record = assert_kept(tmp_path / "run", *expected)
    assert (record["status"], record["message"]) == ("failed", "Broken: out of order")
    report = read_report(tmp_path / "run")
    assert (report.status, report.jobs[0].status, report.jobs[2].status) == ("failed", "finished", "training")


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_leaves_an_engine_that_hangs(tmp_path: Path, expected: Expected) -> None:
    """Here the display hangs, and the engine that tells it of a loss."""
    again = threading.Event()

    class Hangs(AfterFirst):
        def act(self) -> None:
            for delay_s in (0.0, 0.5):
                threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT)).start()
            again.wait()

    with pytest.raises(Abandoned) as caught:
        execute(staggered_plan(), tmp_path / "run", progress=Hangs())
    record = assert_kept(tmp_path / "run", *expected)
    assert isinstance(caught.value.first, KeyboardInterrupt)
    assert record["status"] == "interrupted"
    again.set()


def test_nothing_is_left_where_nothing_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        assert strict_json(tmp_path / "run" / "record.json")["status"] == "preparing"
        raise Broken

    monkeypatch.setattr(execution, "prepare", broken)
    with pytest.raises(Broken):
        execute(staggered_plan(), tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "no 4.0 GiB"), RuntimeError("can't allocate memory: 9")])
def test_memory_that_cannot_be_had_is_told(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(execution, "prepare", broken)
    with pytest.raises(RunError, match=r"the host has no memory for .*; see `free` and `ulimit -v`"):
        execute(staggered_plan(), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_the_host_store_tells_how_much_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mmap

    def refused(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refused)
    with pytest.raises(RunError, match=r"no .* \(\d+ bytes\) could be had"):
        execute(staggered_plan(), tmp_path / "run")


def test_weights_and_losses_are_there_while_others_train(tmp_path: Path, expected: Expected) -> None:
    weights, _ = expected
    seen: dict[str, object] = {}

    class Looks(NoProgress):
        def finish(self, job: str) -> None:
            if job == "first":
                run = tmp_path / "run"
                state = saved_state(run / "weights" / "first")
                seen["same"] = all(torch.equal(state[name], weights["first"][name]) for name in state)
                seen["losses"] = len(read_losses(run / "losses" / "first.csv"))
                seen["status"] = read_report(run).status

    execute(staggered_plan({"first": 4, "second": 24}), tmp_path / "run", progress=Looks())
    assert seen == {"same": True, "losses": STEPS["first"], "status": "training"}


def test_losses_that_are_no_numbers_are_strict_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydraplan.runtime.losses import Losses

    tell = Losses.loss

    def odd(self: Losses, job: str, step: int, microbatch: int, value: float) -> None:
        tell(self, job, step, microbatch, float("nan") if step == 0 else float("-inf"))

    monkeypatch.setattr(Losses, "loss", odd)
    execute(staggered_plan({"first": 4}), tmp_path / "run")
    (row,) = strict_json(tmp_path / "run" / "record.json")["jobs"]
    assert (row["first_loss"], row["last_loss"]) == ("NaN", "-Infinity")
    assert read_report(tmp_path / "run").jobs[0].last_loss == float("-inf")
