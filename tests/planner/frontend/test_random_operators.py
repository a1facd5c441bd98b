"""Every random operator draws by key: neither cuts nor what others draw from the process-wide generator matter."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from support.models import batch_for, job_of
from support.replay import Replay, Trained, replay_of, same_bits
from torch import Tensor, nn
from torch._ops import OpOverload

from hydraplan.planner.costs.nodes import node_costs
from hydraplan.planner.frontend.shards.build import build
from hydraplan.planner.frontend.shards.program import BuiltModel
from hydraplan.planner.frontend.tracing import keyed
from hydraplan.planner.frontend.tracing.keyed import CellKey, Draws
from hydraplan.planner.frontend.tracing.operators import is_random
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.plans.language.errors import TraceError

WIDTH = 16
KEY = CellKey(seed=1, step=2, microbatch=3)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def drop_path(value: Tensor) -> Tensor:
    """Stochastic depth, as timm writes it."""
    keep = torch.rand((value.shape[0], 1, 1), dtype=value.dtype, device=value.device).add_(0.8).floor_()
    return value.div(0.8) * keep


def written_where_others_look(value: Tensor) -> Tensor:
    """In-place operators on memory that a view made before reads after."""
    copy = value * 1
    seen = copy.view(-1)
    F.dropout(copy, 0.5, True, inplace=True)
    other = torch.zeros_like(value)
    row = other[0]
    row.uniform_(0, 1)
    return seen.view_as(copy) + other


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.5, True),
    "dropout in place": lambda x: F.dropout(x * 1, 0.5, True, inplace=True),
    "dropout on seen memory": written_where_others_look,
    "native_dropout": lambda x: torch.native_dropout(x, 0.5, True)[0],
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.5, True),
    "alpha_dropout in place": lambda x: F.alpha_dropout(x * 1, 0.5, True, inplace=True),
    "dropout1d": lambda x: F.dropout1d(x, 0.5, True),
    "dropout2d": lambda x: F.dropout2d(x.unsqueeze(-1), 0.5, True).squeeze(-1),
    "dropout3d": lambda x: F.dropout3d(x[..., None, None], 0.5, True)[..., 0, 0],
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.5, True),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "rrelu in place": lambda x: F.rrelu(x * 1, training=True, inplace=True),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    "drop_path": drop_path,
    "gumbel_softmax": lambda x: F.gumbel_softmax(x, hard=True),
    "rand": lambda x: x + torch.rand(WIDTH),
    "randn": lambda x: x + torch.randn(WIDTH),
    "randint": lambda x: x + torch.randint(5, (WIDTH,)) + torch.randint(1, 5, (WIDTH,)),
    "randperm": lambda x: x[..., torch.randperm(WIDTH)],
    "rand_like": lambda x: x + torch.rand_like(x),
    "randn_like": lambda x: x + torch.randn_like(x),
    "randint_like": lambda x: x + torch.randint_like(x, 5) + torch.randint_like(x, 1, 5),
    "bernoulli": lambda x: x + torch.bernoulli(torch.sigmoid(x)) + torch.bernoulli(x.detach(), 0.5),
    "multinomial": lambda x: x + x.detach().abs().flatten(0, 1).multinomial(2).sum(1).view(2, 8, 1),
    "normal": lambda x: x + torch.normal(0.0, 1.0, (WIDTH,)) + torch.normal(x.detach(), 0.5),
    "poisson": lambda x: x + torch.poisson(x.detach().abs()),
    "exponential_": lambda x: x + torch.empty_like(x).exponential_(),
    "uniform_": lambda x: x + torch.empty_like(x).uniform_(-1, 1),
    "normal_": lambda x: x + torch.empty_like(x).normal_(),
    "bernoulli_": lambda x: x + torch.empty_like(x).bernoulli_(0.5),
    "geometric_": lambda x: x + torch.empty_like(x).geometric_(0.5),
    "uniform_ of a value with gradient": lambda x: x + (x * 2).uniform_() + (x * 2).bernoulli_(0.5),
    "random_": lambda x: x + torch.empty_like(x).random_(3),
}


class Drawn(nn.Module):
    """Every random operator, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in OPERATORS)
        self.lstm = nn.LSTM(WIDTH, WIDTH // 2, num_layers=3, dropout=0.5, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(WIDTH, WIDTH, num_layers=2, dropout=0.5)
        self.rnn = nn.RNN(WIDTH, WIDTH, num_layers=2, dropout=0.5, bias=False, nonlinearity="relu")

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens)
        for layer, operator in zip(self.layers, OPERATORS.values(), strict=True):
            value = torch.tanh(operator(layer(value))) + value * 0.5
        value, (state, _) = self.lstm(value)
        return self.rnn(self.gru(value)[0])[0] + value + state.mean()


def from_a_kernel_of_its_own(value: Tensor) -> Tensor:
    query = value.unsqueeze(1)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, query, query, 0.5)[0].squeeze(1)


def seeded(value: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return value + torch.rand(WIDTH)


OWN = torch.Generator()

REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "kernel": (from_a_kernel_of_its_own, "flash_attention_for_cpu.default takes no generator.* use dropout"),
    "seeded": (seeded, r"seeds the process-wide generator \(5\); leave it out"),
    "rand": (lambda x: x + torch.rand(WIDTH, generator=OWN), "rand draws from a generator of the model's own; leave"),
    "normal": (lambda x: torch.normal(x.detach(), 0.5, generator=OWN), "normal draws from a generator.*; leave it out"),
    "normal_": (lambda x: x + torch.empty_like(x).normal_(generator=OWN), "normal_ draws from a generator.*; leave"),
    "exponential_": (lambda x: x + torch.empty_like(x).exponential_(generator=OWN), "exponential_ draws from a gen"),
    "made here": (lambda x: x[..., torch.randperm(WIDTH, generator=torch.Generator())], "randperm draws from a gene"),
}
"""What stays refused, and what the error says."""


class Left(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, WIDTH)
        self.attend = Sampled(kind)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attend(self.embed(tokens))


class Sampled(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, value: Tensor) -> Tensor:
        return REFUSED[self.kind][0](value)


JOB = job_of(f"{__name__}:Drawn", {}, name="drawn", loss="support.models:squared_error", microbatches=2)


@cache
def built() -> tuple[BuiltModel, TracedGraph]:
    return build(JOB, batch_for(JOB))


def replay(cuts: Sequence[int], keep: Callable[..., bool]) -> Replay:
    return replay_of(JOB, cuts, keep, built())


def run(seed: int) -> Trained:
    draw = random.Random(seed)
    cuts = sorted(draw.sample(built()[1].cut_positions, 6 * seed))
    return replay(cuts, lambda *_: draw.random() < 0.5).train(2)


@contextmanager
def disturbed() -> Iterator[None]:
    """Another thread draws from the process-wide generator all the while."""
    done = threading.Event()

    def draw() -> None:
        while not done.is_set():
            torch.rand(3)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_every_random_operator_of_the_graph_is_keyed() -> None:
    nodes = built()[1].nodes
    assert sum(node.target in keyed.KEYED for node in nodes) >= len(OPERATORS) + 3
    left = [node for node in nodes if isinstance(node.target, OpOverload) and "rand" in str(node.target)]
    assert not left
    draws = [node.meta["draw"] for node in nodes if node.target in keyed.KEYED]
    assert len(set(draws)) == len(draws)


def test_every_random_operator_has_a_cost() -> None:
    costs = node_costs(built()[1])
    keyed_nodes = [number for number, node in enumerate(built()[1].nodes) if node.target in keyed.KEYED]
    assert all(costs[number].peak_bytes >= costs[number].output_bytes for number in keyed_nodes)
    # of the others, all write to memory that was there
    assert sum(costs[number].output_bytes > 0 for number in keyed_nodes) >= len(OPERATORS)


def test_the_same_bits_under_any_cuts_while_another_thread_draws() -> None:
    expected = run(0)
    with disturbed():
        assert all(same_bits(run(seed), expected) for seed in (1, 2))


def test_naive_draws_from_the_process_wide_generator_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Draws, "generator", lambda *_: torch.default_generator)
    torch.manual_seed(0)
    expected = run(0)
    torch.manual_seed(0)
    assert not same_bits(run(2), expected)


def test_cells_draw_different_numbers() -> None:
    whole = replay((), lambda *_: False)
    arguments = whole.arena({}, batch_for(JOB), 0).views

    def loss(step: int, microbatch: int) -> Tensor:
        key = CellKey(seed=JOB.seed, step=step, microbatch=microbatch)
        return whole.sharded.programs[0].forward(**arguments, key=key, keep=False).activations["loss"].clone()

    losses = [loss(*cell) for cell in ((0, 0), (0, 1), (1, 0))]
    assert torch.equal(losses[0], loss(0, 0))
    assert len({float(each) for each in losses}) == 3


# -- statistics -----------------------------------------------------------------------------------------


def draws(number: int = 0) -> Draws:
    return Draws(KEY, (number,))


@pytest.mark.parametrize("form", [keyed.dropout, keyed.feature_dropout])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropouts_keep_their_share_and_the_mean(form: Callable[..., Tensor], p: float) -> None:
    value = form(draws(), 0, torch.ones(200, 200, 3), p)
    kept = (value != 0).float().mean()
    assert abs(float(kept) - (1 - p)) < 0.01
    assert float(value.max()) == pytest.approx(1 / (1 - p))
    if form is keyed.feature_dropout:
        assert torch.equal(value, value[..., :1].expand_as(value))
    assert not form(draws(), 0, torch.ones(2, 2, 3), 1.0).any()


def test_a_mask_is_what_was_kept() -> None:
    value, mask = keyed.native_dropout(draws(), 0, torch.ones(100, 100), 0.25)
    assert torch.equal(value, mask / 0.75)
    assert torch.equal(value, keyed.dropout(draws(), 0, torch.ones(100, 100), 0.25))


@pytest.mark.parametrize("form", [keyed.alpha_dropout, keyed.feature_alpha_dropout])
def test_alpha_dropout_keeps_mean_and_variance(form: Callable[..., Tensor]) -> None:
    value = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    made = form(draws(), 0, value, 0.2)
    assert abs(float(made.mean())) < 0.02
    assert abs(float(made.std()) - 1) < 0.02
    # What is kept and what is dropped are torch's own values.
    torch.manual_seed(0)
    real = F.alpha_dropout(torch.zeros(300, 300), 0.2, True)
    ours = form(draws(), 0, torch.zeros(300, 300), 0.2)
    torch.testing.assert_close(torch.tensor(sorted(set(ours.flatten().tolist()))), real.unique())
    assert not form(draws(), 0, value, 1.0).any()


def test_rrelu_draws_slopes_from_its_range() -> None:
    value = -torch.ones(100, 100)
    slopes = -keyed.rrelu(draws(), 0, value, 0.1, 0.3)
    assert 0.1 <= float(slopes.min()) < 0.11 and 0.29 < float(slopes.max()) <= 0.3
    assert torch.equal(keyed.rrelu(draws(), 0, -value, 0.1, 0.3), -value)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_recurrent_layers_one_by_one_are_the_whole_one(name: str, bidirectional: bool) -> None:
    """With a dropout so rare that nothing is dropped, the decomposition is the operator itself."""
    torch.manual_seed(3)
    module = getattr(nn, name)(4, 5, num_layers=3, bidirectional=bidirectional)
    value = torch.randn(6, 2, 4)
    expected, end = module(value)
    rows = 3 * (2 if bidirectional else 1)
    state = [torch.zeros(rows, 2, 5)] * 2 if name == "LSTM" else torch.zeros(rows, 2, 5)
    operator = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}[name]
    layer = getattr(torch.ops.aten, operator).input
    found = keyed.recurrent(draws(), 0, layer, value, state, module._flat_weights, True, 3, 1e-9, bidirectional, False)
    for ours, real in zip(found, (expected, *(end if name == "LSTM" else (end,))), strict=True):
        torch.testing.assert_close(ours, real)
    half = keyed.recurrent(draws(), 0, layer, value, state, module._flat_weights, True, 3, 0.5, bidirectional, False)
    assert not torch.allclose(half[0], found[0])


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_drawn_by_key_is_refused(kind: str) -> None:
    job = job_of(f"{__name__}:Left", {"kind": kind}, name="left", loss="support.models:squared_error")
    with pytest.raises(TraceError, match=rf"module '?attend'?.*test_random_operators\.py:\d+.*{REFUSED[kind][1]}"):
        trace(job, batch_for(job))
    assert torch.manual_seed is torch.random.manual_seed
    torch.manual_seed(0)  # works again


def test_whether_a_flag_that_is_not_given_means_to_draw() -> None:
    operators = torch.ops.aten
    value = torch.ones(2)
    assert is_random(operators.native_dropout.default, (value, 0.5, None), {})
    assert not is_random(operators.native_dropout.default, (value, 0.5, False), {})
    assert not is_random(operators.native_dropout.default, (value, 0.0, None), {})
    assert not is_random(operators.rrelu.default, (value,), {})
