"""Tracing: no weights, clear errors, and a graph that says where it may be cut."""

from __future__ import annotations

import operator
import sys
from dataclasses import replace
from functools import cache

import psutil
import pytest
import torch
from support.models import GPT2, batch_for, gpt2, job_of, jobs
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from hydraplan.planner.frontend.shards.build import Known, build, same_graph_cause
from hydraplan.planner.frontend.tracing import keyed
from hydraplan.planner.frontend.tracing.operators import mutated_inputs
from hydraplan.planner.frontend.tracing.trace import trace
from hydraplan.planner.frontend.tracing.traced import Context, TracedGraph, makes_tensor
from hydraplan.plans.language.errors import TraceError, WorkloadError
from hydraplan.plans.language.workload import Job, Precision, Value

LOSS = "support.models:squared_error"


class Updates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 16)
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            self.scale.mul_(0.9)
        return self.embed(tokens) * self.scale


class Trains(nn.Module):
    """A buffer that keeps the gradient of what it is updated with."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 16)
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens)
        self.get_buffer("mean").add_(value.mean((0, 1)))
        return value * self.get_buffer("mean")


class Reshapes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 16)
        self.register_buffer("last", torch.zeros(16))

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens)
        self.last = value.detach()
        return value


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Embedding(48, 16), Branch())

    def forward(self, tokens: Tensor) -> Tensor:
        return self.body(tokens)


class Branch(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        if value.sum() > 0:  # depends on data
            return value * 2
        return value


class Splits(nn.Module):
    """A value of a size that only values tell."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embed(tokens) * torch.ones((tokens > 24).sum().item()).sum()


class Bent(nn.LayerNorm):
    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__(16)
        self.bend = nn.Tanh()
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, value: Tensor) -> Tensor:
        return self.bend(super().forward(value))


class Replaces(nn.Module):
    """A forward that puts another module in the place of one, as some of transformers do for short inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, tokens: Tensor) -> Tensor:
        self.norm = self.norm if isinstance(self.norm, Bent) else Bent(self.norm)
        return self.norm(self.embed(tokens))


class Mapped(nn.Module):
    """vmap over a batch of tables."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.vmap(lambda value: value * value.sum())(self.embed(tokens))


class Asserts(nn.Module):
    """A number that only an assertion needs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        torch._check(tokens.amax().item() < 48)
        return self.embed(tokens)


class Random(nn.Module):
    def __init__(self, kind: str = "rand") -> None:
        super().__init__()
        self.kind = kind
        self.embed = nn.Embedding(48, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens)
        if self.kind == "rand":
            return value + torch.rand_like(value)
        if self.kind == "normal_":
            return value + torch.empty_like(value).normal_()
        if self.kind == "multinomial":
            return value + value.detach().abs().flatten(0, 1).multinomial(1).view(2, 8, 1)
        query = value.unsqueeze(1)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, query, query, 0.5)[0].squeeze(1)


class Regions(nn.Module):
    """no_grad and autocast regions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 16)
        self.layer = nn.Linear(16, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens)
        with torch.no_grad():
            scale = self.layer(value).abs().mean()
            with torch.enable_grad():
                bent = torch.tanh(value)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = self.layer(bent)
            with torch.autocast("cpu", enabled=False):
                high = self.layer(bent)
        return high / (1 + scale) + low.float()


class Mixed(nn.Module):
    """What fake tensors let pass and real ones do not, once its parameters are bf16, or under autocast."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.embed = nn.Embedding(48, 16)
        self.layer = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.mix = nn.Conv1d(8, 8, 1)
        self.register_buffer("positions", torch.linspace(0, 1, 16))

    def forward(self, tokens: Tensor) -> Tensor:
        value = self.embed(tokens) + self.get_buffer("positions")
        match self.kind:
            case "linear":
                return self.layer(value)
            case "layer_norm":
                return self.norm(value)
            case "conv1d":
                return self.mix(value)
            case "index_put_":
                canvas = torch.zeros(2, 8, 16)
                canvas[torch.arange(2)] = self.layer(value.to(self.layer.weight.dtype))
                return canvas
        return self.layer(self.norm(value.to(self.norm.weight.dtype)))


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 16).requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embed(tokens)


class Attribute(nn.Module):
    """A constant that depends on the seed, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 16)
        self.noise = torch.randn(16)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embed(tokens) * self.noise + torch.tensor([1.0, 2.0]).repeat(8)


def no_module() -> int:
    return 3


def broken() -> nn.Module:
    raise RuntimeError("no such weights")


def exits() -> nn.Module:
    sys.exit(3)


class Exits(nn.Embedding):
    def forward(self, tokens: Tensor) -> Tensor:
        sys.exit("no such tokens")


def exits_inside() -> nn.Module:
    return nn.Sequential(Exits(48, 16))


def interrupted() -> nn.Module:
    raise KeyboardInterrupt


@cache
def traced(job: Job) -> TracedGraph:
    return trace(job, batch_for(job))


def mine(name: str, **arguments: Value) -> Job:
    return job_of(f"{__name__}:{name}", arguments, name="mine", loss=LOSS)


# -- what a trace holds ---------------------------------------------------------------------------------


def test_no_weights_are_allocated() -> None:
    large = gpt2(n_embd=1600, n_head=25, vocab_size=50257, n_positions=1024)
    traced(gpt2())  # what importing takes
    before = psutil.Process().memory_info().rss
    graph = traced(large)
    grown = psutil.Process().memory_info().rss - before
    values = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    assert all(isinstance(value, FakeTensor) for value in values)
    parameter_bytes = sum(value.numel() * 4 for value in values)
    assert parameter_bytes > 500 * 2**20
    assert grown < parameter_bytes / 4


def test_a_graph_knows_its_source_and_flags() -> None:
    graph = traced(jobs()["gpt2"])
    node = next(node for node in graph.nodes if "mlp_c_fc_weight" in str(node.args))
    source = node.meta["source"]
    assert source.module == "transformer.h.0.mlp.c_fc"
    assert source.location.rpartition(":")[0].endswith("pytorch_utils.py")
    assert graph.requires_grad[node.name]
    assert graph.nodes[-1].name == graph.loss
    masks = [node for node in graph.nodes if node.meta["val"] is not None and makes_tensor(node)]
    assert any(not graph.requires_grad[node.name] for node in masks)
    assert not any("_assert" in str(node.target) for node in graph.nodes)


def test_every_node_leads_to_the_loss() -> None:
    graph = traced(jobs()["t5"])
    needed = {graph.loss}
    for node in reversed(graph.nodes):
        assert node.name in needed or any(True for _ in mutated_inputs(node)), node
        needed |= {each.name for each in node.all_input_nodes}


@pytest.mark.parametrize("name", sorted(jobs()))
def test_no_cut_parts_a_node_from_its_getitems(name: str) -> None:
    graph = traced(jobs()[name])
    order = {node: number for number, node in enumerate(graph.nodes)}
    assert graph.cut_positions
    for node in graph.nodes:
        if node.target is operator.getitem and node.name not in graph.recomputed:
            source = order[node.all_input_nodes[0]]
            assert not any(source < position <= order[node] for position in graph.cut_positions)


def test_what_only_an_assertion_needs_may_depend_on_values() -> None:
    assert next(str(node.target) for node in traced(mine("Asserts")).nodes) == "aten.embedding.default"


def test_a_forward_may_replace_a_module() -> None:
    targets = [str(node.target) for node in traced(mine("Replaces")).nodes]
    assert targets[:3] == ["aten.embedding.default", "aten.layer_norm.default", "aten.tanh.default"]


def test_equal_names_of_batch_values_stay_apart() -> None:
    """Labels that are the same tensor as the input are another input."""
    job = gpt2()
    tokens = batch_for(job)["input_ids"]
    graph = trace(job, {"input_ids": tokens, "labels": tokens})
    assert [each.name for each in graph.placeholders if each.role == "batch"] == ["input_ids", "labels"]
    assert graph.digest == traced(job).digest


def test_names_of_jobs_and_what_only_training_uses_change_no_graph() -> None:
    job = gpt2()
    other = job_of("transformers:GPT2LMHeadModel", dict(job.model.arguments), name="other", seed=99, steps=5)
    assert same_graph_cause(job, batch_for(job)) == same_graph_cause(other, batch_for(other))
    assert traced(job).digest == traced(other).digest
    assert traced(job).digest != traced(gpt2(n_layer=1)).digest


def test_regions_become_modes_of_single_nodes() -> None:
    graph = traced(mine("Regions"))
    contexts = {node.name: node.meta["context"] for node in graph.nodes}
    quiet = [node for node in graph.nodes if not contexts[node.name].grad]
    assert quiet
    assert not any(graph.requires_grad[node.name] for node in quiet)
    tanh = next(node for node in graph.nodes if "tanh" in node.name)
    assert contexts[tanh.name] == Context()
    assert graph.requires_grad[tanh.name]
    low = [node for node in graph.nodes if contexts[node.name].autocast is not None]
    assert [str(node.target) for node in low] == ["aten.linear.default"]


@pytest.mark.parametrize(
    ("kind", "precision", "says"),
    [
        ("linear", "bf16", "module layer .*: linear gets values of float32 and bfloat16"),
        ("layer_norm", "bf16", "module norm .*: layer_norm gets values of float32 and bfloat16"),
        ("conv1d", "bf16", "Input type .float. and bias type .c10::BFloat16. should be the same"),
        ("index_put_", "autocast", r"test_trace.py:\d+.: index_put_? gets values of float32 and bfloat16"),
    ],
)
def test_types_that_operators_refuse_are_refused_while_planning(kind: str, precision: Precision, says: str) -> None:
    with pytest.raises(TraceError, match=says) as caught:
        traced(replace(mine("Mixed", kind=kind), precision=precision))
    assert "convert one of them there (value.to(other.dtype)); in a job of precision bf16" in str(caught.value)
    traced(replace(mine("Mixed", kind=kind), precision="fp32"))
    traced(replace(mine("Mixed", kind="none"), precision=precision))


@pytest.mark.parametrize("kind", ["rand", "normal_", "multinomial"])
def test_random_operators_that_take_a_generator_are_keyed(kind: str) -> None:
    graph = traced(mine("Random", kind=kind))
    (drawn,) = (node for node in graph.nodes if node.target in keyed.KEYED)
    assert graph.nodes[drawn.meta["draw"]] is drawn
    assert drawn.name not in graph.recomputed


def test_dropout_that_is_off_is_no_node() -> None:
    assert not any(node.target in keyed.KEYED or "dropout" in str(node.target) for node in traced(gpt2()).nodes)
    assert sum(node.target in keyed.KEYED for node in traced(gpt2(dropout=True)).nodes) == 7


def test_a_known_graph_serves_other_seeds_unless_constants_were_made_with_the_model() -> None:
    job = mine("Attribute")
    other = replace(job, seed=job.seed + 1)
    assert same_graph_cause(job, batch_for(job)) == same_graph_cause(other, batch_for(other))
    known = Known.of(job, *build(job, batch_for(job)))
    assert known.serves(job, batch_for(job)) and not known.serves(other, batch_for(other))
    job, other = gpt2(), replace(gpt2(), seed=gpt2().seed + 1)
    first, graph = build(job, batch_for(job))
    known = Known.of(job, first, graph)
    assert known.serves(other, batch_for(other))
    alone, _ = build(other, batch_for(other))
    shared, same = build(other, batch_for(other), known=known)
    assert same is graph
    assert alone.tensors.keys() == shared.tensors.keys()
    assert all(torch.equal(value, shared.tensors[name]) for name, value in alone.tensors.items())


# -- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "parts"),
    [
        (mine("Updates"), ["updates parameter 'scale'", "register it as a buffer", "test_trace.py:"]),
        (mine("Trains"), ["updates buffer", "under torch.no_grad()", "test_trace.py:"]),
        (mine("Reshapes"), ["to buffer 'last'", "the buffer's type and shape", "test_trace.py:"]),
        (mine("Branches"), ["module 'body.1'", "test_trace.py:", "torch.where"]),
        (mine("Random", kind="kernel"), ["flash_attention_for_cpu.default takes no generator", "use dropout"]),
        (mine("Mapped"), ["torch.func (vmap", "test_trace.py:"]),
        (mine("Splits"), ["depend on values", "aten.item.default", "or masks", "test_trace.py:"]),
        (mine("broken"), ["RuntimeError: no such weights", "test_trace.py:"]),
        (mine("exits"), ["making model", "test_trace.py:", "it called sys.exit(3): let it raise an error"]),
        (mine("exits_inside"), ["module '0'", "test_trace.py:", "it called sys.exit('no such tokens')"]),
        (mine("Frozen"), ["train at least one parameter"]),
        (job_of("transformers:GPT2Model", GPT2), ["labels", "the job's `loss`"]),
    ],
)
def test_what_cannot_be_traced_says_where_and_what_to_do(job: Job, parts: list[str]) -> None:
    with pytest.raises(TraceError) as caught:
        traced(job)
    for part in parts:
        assert part in str(caught.value)
    assert f"job {job.name}" in str(caught.value)


def test_an_interrupt_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt):
        trace(mine("interrupted"), batch_for(mine("interrupted")))


@pytest.mark.parametrize(
    ("job", "part"),
    [
        (mine("no_module"), "torch.nn.Module"),
        (job_of("transformers:AutoTokenizer", {}), "no config_class"),
        (gpt2(dtype="bfloat16"), "precision"),
    ],
)
def test_what_is_no_model_is_refused(job: Job, part: str) -> None:
    with pytest.raises(WorkloadError, match=part):
        traced(job)


def test_a_batch_of_something_else_than_tensors_is_refused() -> None:
    with pytest.raises(TraceError, match="'input_ids' as list"):
        trace(gpt2(), {"input_ids": [1, 2]})  # type: ignore[dict-item]


def test_a_configuration_value_that_no_model_reads_is_refused() -> None:
    """transformers takes any: a slip of the pen would train the default model."""
    with pytest.raises(WorkloadError, match=r"GPT2Config has no value 'n_layers'; did you mean 'n_layer'\?"):
        traced(job_of("transformers:GPT2LMHeadModel", GPT2 | {"n_layers": 6}))
    others = {"num_hidden_layers": 2, "attn_implementation": "eager", "decoder_start_token_id": 0}
    values = {name: value for name, value in GPT2.items() if name != "n_layer"}
    assert traced(job_of("transformers:GPT2LMHeadModel", values | others)).nodes
