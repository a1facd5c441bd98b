"""What a forward does beside computing: equal to the plain loop, or refused at plan with line and remedy.

The habits are in support.forwards; those that are refused have their remedies there too, and these train.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support import forwards
from support.plainly import differences, habit_job
from torch import nn
from torch._subclasses import FakeTensor

from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.users.data import open_data
from hydraplan.plans.language.errors import TraceError
from hydraplan.plans.language.workload import Job


def job(kind: str) -> Job:
    own = "support.forwards"
    return habit_job(f"{own}:make", data=f"{own}:rows", loss=f"{own}:loss", arguments={"kind": kind})


def refusal(kind: str) -> str:
    of = job(kind)
    with pytest.raises(TraceError) as caught:
        trace(of, open_data(of).microbatch(0, 0))
    return str(caught.value)


KEPT = "make it a buffer"
DRAWN = "draw with torch's functions"
FLAG = "leave it out of the forward"
SEED = "leave it out: what a forward draws follows from the job's seed"
ENTERED = "leave it out: what it changes belongs in the forward itself"
REFUSED = {
    "annealed": ("self.temperature (0.9 before, 0.81", KEPT, "net.temperature *= 0.9"),
    "annealed_within": ("self.schedule.value", KEPT, "self.value *= 0.9"),
    "counted": ("self.calls (1 before, 2", KEPT, "net.calls += 1"),
    "counted_globally": ("STEPS['global']", KEPT, 'STEPS["global"] += 1'),
    "counted_in_the_class": ("epochs", KEPT, "Net.epochs += 1"),
    "counted_in_the_function": ("counted_in_the_function.calls", KEPT, "counted_in_the_function.calls += 1"),
    "counted_by_iterator": ("CALLS", KEPT, "next(CALLS)"),
    "remembered_sizes": ("remembered_sizes", KEPT, "seen.append"),
    "momentum_of_a_tensor": ("self.bank", KEPT, "net.bank = (0.9"),
    "bank_in_a_dict": ("self.cache['last']", KEPT, 'net.cache["last"] ='),
    "bank_in_a_queue": ("self.queue", KEPT, "net.queue.append"),
    "noise_drawn_once": ("self.bank", KEPT, "net.bank = torch.randn"),
    "trained_value_kept": ("self.seen", KEPT, "net.seen = net.seen, net.scale"),
    "data_written": ("self.second.weight", "only buffers can be updated", ".data = F.normalize"),
    "data_clamped": ("'second.weight'", "only buffers can be updated", ".data.clamp_"),
    "copied_into": ("'second.weight'", "only buffers can be updated", ".copy_("),
    "frozen_now": ("self.second.weight", "only buffers can be updated", "requires_grad_(False)"),
    "frozen_by_attribute": ("self.first.", "only buffers can be updated", "requires_grad = False"),
    "layer_made": ("self.extra", "only buffers can be updated", "net.extra = nn.Linear"),
    "parameter_registered": ("self.gain", "only buffers can be updated", "register_parameter"),
    "buffer_filled": ("self.late", "register all parts", "net.late = h"),
    "mode_flipped": ("self.norm.training", "modes and hooks are set", "net.norm.eval()"),
    "hook_registered": ("_forward_hooks", "modes and hooks are set", "register_forward_hook"),
    "drawn_by_python": ("Python's generator", DRAWN, "random.random()"),
    "drawn_by_a_bound_name": ("Python's generator", DRAWN, "draw()"),
    "shuffled": ("Python's generator", DRAWN, "random.shuffle"),
    "drawn_by_numpy": ("numpy's generator", DRAWN, "np.random.rand()"),
    "drawn_by_an_own_generator": ("self.numpys", DRAWN, "net.numpys.random()"),
    "drawn_by_a_module_generator": ("SHARED", DRAWN, "SHARED.random()"),
    "drawn_by_an_own_random": ("self.own", DRAWN, "net.own.random()"),
    "seeded_by_a_bound_name": ("seeds the process-wide generator (7)", SEED, "torch.randn"),
    "forked_and_seeded": ("seeds the process-wide generator (1)", SEED, "torch.randn"),
    "state_set": ("sets the state of the process-wide generator", SEED, "torch.set_rng_state(state)"),
    "timed": ("something else at each call", "make it depend on", "time.perf_counter()"),
    "identified": ("something else at each call", "make it depend on", "uuid.uuid4()"),
    "by_system": ("something else at each call", "make it depend on", "SystemRandom()"),
    "decorated_inference": ("inference mode", FLAG, "net.second(h).sum()"),
    "inference": ("inference mode", FLAG, "net.second(h)"),
    "autocast_set": ("torch.set_autocast_enabled", FLAG, "net.second(h)"),
    "kernel chosen": ("sdp_enabled", FLAG, "scaled_dot_product_attention"),
    "flash off": ("flash_sdp_enabled", FLAG, "net.second(h)"),
    "mkldnn off": ("mkldnn_enabled", FLAG, "net.second(h)"),
    "cudnn flags": ("cudnn_benchmark", FLAG, "net.second(h)"),
    "matmul precision": ("float32_matmul_precision", FLAG, "net.second(h)"),
    "default dtype": ("the default dtype", FLAG, "net.second(h)"),
    "threads": ("the number of threads", FLAG, "net.second(h)"),
    "anomaly": ("anomaly detection", FLAG, "net.second(h)"),
    "function mode": ("enters Doubling", ENTERED, "with context()"),
    "dispatch mode": ("enters Watching", ENTERED, "with context()"),
    "saved tensors packed": ("enters saved_tensors_hooks", ENTERED, "with context()"),
    "deterministic left": ("deterministic_algorithms", FLAG, "self.second(h)"),
    "denormals left": ("flushing of denormal numbers", FLAG, "self.second(h)"),
    "grad left": ("leaves grad mode off", FLAG, "set_grad_enabled(False)"),
}
TWICE = "leave the layer that has the buffer out of the checkpoint"
REFUSED |= dict.fromkeys(
    ("reentrant", "not reentrant", "not reentrant last", "norm twice in one", "nested, reentrant"),
    ("inside of torch's checkpoint", TWICE, "net.norm("),
)
EQUAL = (
    *("mask_kept", "map_kept", "shape_kept", "losses_kept"),
    *("annealed_in_a_buffer", "averaged_in_a_buffer", "normalised_weight", "noise_of_the_constructor"),
    *("frozen_by_detach", "decorated_no_grad", "graded_again", "set_and_reset", "no grad", "grad set"),
    *("saved on the CPU", "bf16 inside", "fp16 inside"),
)


@pytest.fixture(autouse=True)
def _flags_as_they_were() -> object:
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.set_num_threads(before[1])
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)
    for name, calls in (("STEPS", {"global": 0}),):
        assert getattr(forwards, name) == calls, "planning leaves the user's globals as they were"


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_graph_holds_is_refused_with_line_and_remedy(kind: str) -> None:
    told = refusal(kind)
    says, remedy, line = REFUSED[kind]
    assert says in told
    assert remedy in told
    found = re.search(r"forwards\.py:(\d+)\)", told)
    assert found is not None, told
    assert line in Path(forwards.__file__).read_text().splitlines()[int(found[1]) - 1]


@pytest.mark.parametrize("kind", EQUAL)
def test_what_makes_no_difference_and_the_remedies_train_to_the_plain_bits(kind: str, tmp_path: Path) -> None:
    assert differences(job(kind), tmp_path / "run") == []


def test_a_refused_forward_leaves_nothing_behind() -> None:
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    made: list[nn.Module] = []
    original = forwards.make
    forwards.make = lambda kind: made.append(original(kind)) or made[-1]  # type: ignore[func-returns-value]
    try:
        for kind in ("annealed_within", "bank_in_a_dict", "drawn_by_python", "seeded_by_a_bound_name", "timed"):
            refusal(kind)
        accepted = job("mask_kept")
        trace(accepted, open_data(accepted).microbatch(0, 0))
    finally:
        forwards.make = original
    assert (random.getstate(), str(np.random.get_state())) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    first, second, *_, last = made
    assert first.schedule == forwards.Schedule()
    assert second.cache == {} and last.cache == {}
    assert not [each for part in last.modules() for each in vars(part).values() if isinstance(each, FakeTensor)]
