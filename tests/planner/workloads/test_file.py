"""Workload files: what is read, sweeps, and every mistake at once with its place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from hydraplan.planner.workloads.file import load, parse
from hydraplan.planner.workloads.sweep import expand
from hydraplan.planner.workloads.tables import ClusterTable, JobTable, Name, keys
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.workload import Checkpoint, Job, Lengths, Profile, Target, Workload

ROOT = Path(__file__).parents[3]

CLUSTER = """
[cluster]
profile = "cpu.json"
[cluster.host]
memory = "64 GiB"
[[cluster.devices]]
name = "gpu"
count = 2
budget = "11GiB"
bandwidth = "12GB/s"
"""
JOB = """
[[jobs]]
name = "small"
model = { call = "transformers:GPT2LMHeadModel", n_layer = 2 }
data = { call = "planted.data:items", items = 10 }
optimizer = { name = "AdamW", lr = 1e-3, betas = [0.9, 0.95] }
steps = 5
batch_size = 8
microbatches = 4
"""


def read_profile(name: str, folder: Path) -> Profile:
    if name == "missing":
        raise WorkloadError("'missing' is no profile")
    return Profile(
        name=name,
        flops_per_s=10**10,
        bytes_per_s=10**10,
        node_ns=1000,
        copy_bytes_per_s=10**10,
        update_bytes_per_s=10**9,
    )


def read(text: str) -> Workload:
    return parse(text, name="w.toml", folder=Path("."), read_profile=read_profile)


def mistakes(text: str) -> list[str]:
    with pytest.raises(WorkloadError) as caught:
        read(text)
    head, *rest = str(caught.value).splitlines()
    assert head.startswith("w.toml: ") and caught.value.exit_code == 2
    return [line.strip() for line in rest]


def test_a_whole_workload() -> None:
    workload = read(CLUSTER + JOB)
    assert [device.name for device in workload.cluster.devices] == ["gpu0", "gpu1"]
    assert workload.cluster.devices[0].budget_bytes == 11 * 2**30
    assert [(link.name, link.load_bytes_per_s) for link in workload.cluster.links] == [
        ("gpu0-link", 12 * 10**9),
        ("gpu1-link", 12 * 10**9),
    ]
    assert (workload.cluster.host_memory_bytes, workload.cluster.update_workers) == (64 * 2**30, 1)
    assert [profile.name for profile in workload.cluster.profiles] == ["cpu.json"]
    (job,) = workload.jobs
    assert job.model == Target(path="transformers:GPT2LMHeadModel", arguments=(("n_layer", 2),))
    assert job.optimizer == Target(path="AdamW", arguments=(("betas", (0.9, 0.95)), ("lr", 0.001)))
    assert (job.steps, job.batch_size, job.microbatches, job.seed, job.threads) == (5, 8, 4, 0, 1)
    assert (job.loss, job.precision) == (None, "fp32")


LENGTHS = "lengths = { buckets = [64, 128], pad = { labels = -100, input_ids = 0, scale = 0.5, mask = false } }\n"


def test_lengths() -> None:
    (job,) = read(CLUSTER + JOB + LENGTHS).jobs
    pad = (("input_ids", 0), ("labels", -100), ("mask", False), ("scale", 0.5))
    assert job.lengths == Lengths(buckets=(64, 128), pad=pad)
    assert read(CLUSTER + JOB).jobs[0].lengths is None
    swept = read(CLUSTER + JOB + LENGTHS + 'sweep = { "lengths.buckets" = [[64], [32, 96]] }').jobs
    assert [each.name for each in swept] == ["small-buckets64", "small-buckets32_96"]
    assert [each.lengths for each in swept] == [Lengths(buckets=each, pad=pad) for each in ((64,), (32, 96))]


@pytest.mark.parametrize(
    ("table", "path", "says"),
    [
        ("{ buckets = [8, 4], pad = { x = 0 } }", "jobs[0].lengths", "buckets [8, 4] have to ascend"),
        ("{ buckets = [0], pad = { x = 0 } }", "jobs[0].lengths", "have to ascend, from 1"),
        ("{ buckets = [], pad = { x = 0 } }", "jobs[0].lengths.buckets", "lengths that batches are padded to"),
        ("{ buckets = [4] }", "jobs[0].lengths.pad", "missing; write a table such as { input_ids = 0"),
        ("{ buckets = [4], pad = {} }", "jobs[0].lengths.pad", "what fills up the items"),
        ("{ buckets = [4], pad = { x = nan } }", "jobs[0].lengths.pad.x", "nan cannot fill up an item"),
        ("{ buckets = [4], pad = { x = 'a' } }", "jobs[0].lengths.pad.x", "'a' cannot fill up an item"),
        ("{ bucket = [4], pad = { x = 0 } }", "jobs[0].lengths.bucket", "did you mean 'buckets'?"),
    ],
)
def test_a_mistake_in_lengths(table: str, path: str, says: str) -> None:
    found = mistakes(CLUSTER + JOB + f"lengths = {table}")
    assert any(line.startswith(f"{path}: ") and says in line for line in found), found


def test_shared_links_backings_and_shorthand() -> None:
    cluster = """
    [cluster]
    profile = "p"
    links = { pcie = { load = "24GB/s", spill = "20GB/s" } }
    host = { memory = 1_000_000, update_workers = 3, profile = "h" }
    [[cluster.devices]]
    name = "a"
    count = 2
    backing = "cuda"
    budget = "1GiB"
    link = "pcie"
    [[cluster.devices]]
    name = "b"
    backing = "cuda:1"
    budget = "1GB"
    profile = "q"
    """
    job = '[[jobs]]\nname = "x"\nmodel = "lab.m:f"\ndata = "lab.d:f"\noptimizer = "SGD"\nsteps = 1\nbatch_size = 1'
    workload = read(cluster + job)
    assert [(device.backing, device.link) for device in workload.cluster.devices] == [
        ("cuda:0", "pcie"),
        ("cuda:1", "pcie"),
        ("cuda:1", "b-link"),
    ]
    pcie = next(link for link in workload.cluster.links if link.name == "pcie")
    assert (pcie.load_bytes_per_s, pcie.spill_bytes_per_s) == (24 * 10**9, 20 * 10**9)
    assert next(link for link in workload.cluster.links if link.name == "b-link").load_bytes_per_s is None
    assert workload.cluster.host_profile == "h" and workload.cluster.devices[2].profile == "q"
    assert workload.jobs[0].model == Target(path="lab.m:f")
    assert workload.jobs[0].optimizer == Target(path="SGD")


def test_a_sweep_is_a_grid_of_named_jobs() -> None:
    workload = read(CLUSTER + JOB + 'sweep = { "optimizer.lr" = [1e-3, 3e-5], batch_size = [8, 16] }')
    assert [job.name for job in workload.jobs] == [
        "small-lr0.001-bs8",
        "small-lr0.001-bs16",
        "small-lr3e-05-bs8",
        "small-lr3e-05-bs16",
    ]
    assert [dict(job.optimizer.arguments)["lr"] for job in workload.jobs] == [1e-3, 1e-3, 3e-5, 3e-5]
    assert [job.batch_size for job in workload.jobs] == [8, 16, 8, 16]
    assert dict(workload.jobs[0].optimizer.arguments)["betas"] == (0.9, 0.95)


@pytest.mark.parametrize(
    ("sweep", "names"),
    [
        ("model.n_layer = [2, 4]", ["small-n_layer2", "small-n_layer4"]),
        ('optimizer = ["SGD", { name = "AdamW", amsgrad = true }]', ["small-SGD", "small-optimizer1"]),
        ("optimizer.amsgrad = [true, false]", ["small-amsgrad", "small-no-amsgrad"]),
        ("model.seed = [1]\nseed = [2, 3]", ["small-model.seed1-seed2", "small-model.seed1-seed3"]),
        ('model.activation_function = ["gelu new", "relu"]', ["small-gelu_new", "small-relu"]),
        ("optimizer.betas = [[0.9, 0.95]]", ["small-betas0.9_0.95"]),
        (
            "optimizer.lr = [1e30, 1e-30, 0.0, 1.0, 1]",
            [f"small-lr{each}" for each in ("1e30", "1e-30", "0.0", "1.0", "1")],
        ),
        (f"model.n_layer = [{'9' * 80}, {'9' * 81}]", [f"small-n_layer{'9' * 16}-no{each}" for each in (0, 1)]),
    ],
)
def test_names_of_a_sweep(sweep: str, names: list[str]) -> None:
    assert [job.name for job in read(CLUSTER + JOB + "[jobs.sweep]\n" + sweep).jobs] == names


@given(st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_any_numbers_give_names_that_are_valid_and_distinct(values: list[int | float]) -> None:
    distinct = list({(type(value), value): value for value in values}.values())
    points, problems = expand({"name": "small", "sweep": {"optimizer.lr": distinct}}, "jobs[0]")
    assert not problems
    found = [point.table["name"] for point in points]
    assert len(set(found)) == len(distinct)
    for name in found:
        assert TypeAdapter(Name).validate_python(name) == name


def test_epochs_become_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_epochs.py").write_text("def items(items):\n    return list(range(items))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    job = JOB.replace("planted.data", "planted_epochs").replace("steps = 5", "epochs = 3")
    job = job.replace("batch_size = 8\nmicrobatches = 4", "batch_size = 4")
    assert read(CLUSTER + job).jobs[0].steps == 6
    found = mistakes(CLUSTER + job.replace("batch_size = 4", "batch_size = 11"))
    assert found == ["jobs[0].batch_size: an epoch has 10 items, fewer than one batch of 11"]


def test_every_mistake_at_once() -> None:
    text = CLUSTER.replace('memory = "64 GiB"', 'memory = "64"').replace("budget", "buget") + JOB.replace(
        "batch_size = 8", 'batch_size = "eight"\nstep = 3'
    ).replace("lr = 1e-3", "lrr = 1e-3")
    found = mistakes("jbos = 1\n" + text)
    assert found == [
        "jbos: unknown key; did you mean 'jobs'?",
        "cluster.host.memory: '64': write a size with its unit, such as 11GiB or 512 MB",
        'cluster.devices[0].budget: missing; write a size such as "11GiB" (memory that the device may use)',
        "cluster.devices[0].buget: unknown key; did you mean 'budget'?",
        "jobs[0].optimizer: AdamW takes no 'lrr'; did you mean 'lr'?; "
        "it takes amsgrad, betas, eps, lr, maximize, weight_decay",
        "jobs[0].batch_size: 'eight' is not allowed; write a whole number from 1 (samples in a training step)",
        "jobs[0].step: unknown key; did you mean 'steps'?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        ("microbatches = 4", "microbatches = 3", "jobs[0].microbatches", "write one of 1, 2, 4, 8"),
        ("steps = 5", "", "jobs[0]", "give either steps or epochs"),
        ("steps = 5", "steps = 5\nepochs = 2", "jobs[0]", "not both"),
        ("steps = 5", "steps = 0", "jobs[0].steps", "whole number from 1"),
        ("steps = 5", "steps = true", "jobs[0].steps", "whole number from 1"),
        ("steps = 5", "steps = 5.0", "jobs[0].steps", "whole number from 1"),
        ('name = "small"', 'name = "a/b"', "jobs[0].name", "letters, digits"),
        ('name = "AdamW"', 'name = "Lion"', "jobs[0].optimizer.name", '"SGD", "Adam", "AdamW"'),
        ("lr = 1e-3", "lr = nan", "jobs[0].optimizer.lr", "finite"),
        ("n_layer = 2", "n_layer = { a = 1 }", "jobs[0].model.n_layer", "a table cannot be an argument"),
        ("n_layer = 2", "day = 2026-01-01", "jobs[0].model.day", "write it as text"),
        ("transformers:GPT2LMHeadModel", "transformers.GPT2", "jobs[0].model.call", "package.module:callable"),
        ('profile = "cpu.json"', 'profile = "missing"', "cluster.devices[0].profile", "no profile"),
        ('profile = "cpu.json"', "", "cluster.host.profile", "hydraplan profile -o FILE"),
        ('bandwidth = "12GB/s"', 'bandwidth = "12GB"', "cluster.devices[0].bandwidth.load", "is not a rate"),
        ('bandwidth = "12GB/s"', 'link = "pcie"', "cluster.devices[0].link", "there is no link 'pcie'"),
        ('profile = "cpu.json"', 'profile = "p"\nlinks = { x = "1GB/s" }', "cluster.links.x", "no device names it"),
        ('name = "gpu"\ncount = 2', 'name = "host"', "cluster.devices[0].name", "the host's own name"),
        ('budget = "11GiB"', 'budget = "11GiB"\nbacking = "tpu"', "cluster.devices[0].backing", "cuda:N"),
        ("[[jobs]]", "[job]", "jobs", "[[jobs]]"),
        ("[cluster]", "[clutser]", "clutser", "did you mean 'cluster'?"),
        ("microbatches = 4", "precision = 'fp64'", "jobs[0].precision", '"autocast"'),
        (
            "microbatches = 4",
            "seed = -1",
            "jobs[0].seed",
            "-1 is not allowed; write a whole number from 0, below 2^63 (",
        ),
    ],
)
def test_a_mistake_names_its_place_and_what_is_right(old: str, new: str, path: str, says: str) -> None:
    text = CLUSTER + JOB
    assert old in text
    found = mistakes(text.replace(old, new, 1))
    assert any(line.startswith(f"{path}: ") and says in line for line in found), found


@pytest.mark.parametrize(
    ("sweep", "path", "says"),
    [
        ("sweep = [1]", "jobs[0].sweep", "is no sweep"),
        ("sweep = { batch_sise = [1] }", 'jobs[0].sweep."batch_sise"', "did you mean 'batch_size'?"),
        ("sweep = { name = ['a'] }", 'jobs[0].sweep."name"', "cannot be swept"),
        ('sweep = { "optimizer.lr" = 1e-3 }', 'jobs[0].sweep."optimizer.lr"', "is not a list"),
        ('sweep = { "optimizer.lr" = [] }', 'jobs[0].sweep."optimizer.lr"', "is not a list"),
        ('sweep = { "optimizer.lr" = [1e-3, 1e-3] }', 'jobs[0].sweep."optimizer.lr"[1]', "before already"),
        ('sweep = { "batch_size.x" = [1] }', 'jobs[0].sweep."batch_size.x"', "no keys below it"),
        ('sweep = { "model.a.b" = [1] }', 'jobs[0].sweep."model.a.b"', "arguments themselves"),
        ("sweep = { batch_size = [8, 'x'] }", 'jobs[0].sweep."batch_size"[1]', "whole number from 1"),
        ("sweep = { microbatches = [4, 3] }", 'jobs[0].sweep."microbatches"[1]', "write one of 1, 2, 4, 8"),
        ('sweep = { "optimizer.name" = ["SGD", "Lion"] }', 'jobs[0].sweep."optimizer.name"[1]', '"AdamW"'),
    ],
)
def test_a_mistake_in_a_sweep(sweep: str, path: str, says: str) -> None:
    found = mistakes(CLUSTER + JOB + sweep)
    assert any(line.startswith(f"{path}: ") and says in line for line in found), found


def test_names_are_unique() -> None:
    assert mistakes(CLUSTER + JOB + JOB) == ["jobs: 2 jobs are called 'small'; names are unique"]
    device = CLUSTER[CLUSTER.index("[[cluster") :].replace("count = 2\n", "")
    twice = CLUSTER.replace("count = 2\n", "") + device + JOB
    assert mistakes(twice) == ["cluster.devices: 2 devices are called 'gpu'; names are unique"]


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="cannot read the workload"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(WorkloadError, match="not UTF-8"):
        load(tmp_path / "latin.toml")
    (tmp_path / "bad.toml").write_text("[cluster\n")
    with pytest.raises(WorkloadError, match=r"not TOML.*line 1"):
        load(tmp_path / "bad.toml")


def test_a_model_may_be_a_local_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')

    def job_of(model: str, more: str = "") -> Job:
        text = CLUSTER + JOB.replace('{ call = "transformers:GPT2LMHeadModel", n_layer = 2 }', model) + more
        return parse(text, name="w.toml", folder=tmp_path, read_profile=read_profile).jobs[-1]

    job = job_of('"tiny"')
    assert job.model == Target(path="transformers:GPT2LMHeadModel")
    assert job.checkpoint == Checkpoint(folder=str(tmp_path / "tiny"))
    job = job_of('{ checkpoint = "./tiny", architecture = "lab.m:Own", ignore = ["a.b"], resid_pdrop = 0.0 }')
    assert job.model == Target(path="lab.m:Own", arguments=(("resid_pdrop", 0.0),))
    assert job.checkpoint == Checkpoint(folder=str(tmp_path / "tiny"), ignore=("a.b",))
    job = job_of('"tiny"', 'sweep = { "model.resid_pdrop" = [0.0, 0.5] }')
    assert job.checkpoint is not None and job.model.arguments == (("resid_pdrop", 0.5),)
    assert job_of('"lab.m:f"', 'sweep = { model = ["lab.m:g", "tiny"] }').name == "small-tiny"


def test_mistakes_about_checkpoints_are_told() -> None:
    def told(model: str) -> str:
        (line,) = mistakes(CLUSTER + JOB.replace('{ call = "transformers:GPT2LMHeadModel", n_layer = 2 }', model))
        return line

    assert told('"nowhere"').startswith("jobs[0].model: there is no folder ") and "/nowhere: write the" in told(
        '"nowhere"'
    )
    assert told("{ n_layer = 2 }") == "jobs[0].model: give either `call` or `checkpoint`"
    assert told('{ call = "a:b", checkpoint = "c" }').endswith("`checkpoint`, not both")
    assert told('{ call = "a:b", ignore = ["c"] }') == "jobs[0].model: ignore can be given with a checkpoint alone"


def test_the_readme_lists_every_key() -> None:
    readme = (ROOT / "README.md").read_text()
    for key, meaning, allowed in [*keys(ClusterTable, "cluster"), *keys(JobTable, "jobs")]:
        assert f"| `{key}` | {meaning} | {allowed} |" in readme, key
