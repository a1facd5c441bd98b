"""Read a workload file (TOML) into a frozen Workload, strictly: every mistake at once, each with its place.

    [cluster]
    profile = "profile.json"                # calibration (`hydraplan profile -o profile.json`) or catalogue entry
    links = { pcie = "24GB/s" }             # shared by the devices that name it

    [cluster.host]
    memory = "64GiB"
    update_workers = 1

    [[cluster.devices]]
    name = "gpu"                            # with count = 2: gpu0 and gpu1
    count = 2
    backing = "cpu"
    budget = "11GiB"
    link = "pcie"                           # or bandwidth = "12GB/s": a link of its own

    [[jobs]]
    name = "small"
    model = { call = "transformers:GPT2LMHeadModel", n_layer = 12 }
    data = { call = "mylab.data:corpus", block = 512 }
    optimizer = { name = "AdamW", lr = 1e-3 }
    steps = 100
    batch_size = 8
    microbatches = 4
    lengths = { buckets = [128, 512], pad = { input_ids = 0, labels = -100 } }
    sweep = { "optimizer.lr" = [1e-3, 3e-4], batch_size = [8, 16] }     # small-lr0.001-bs8, ...

The path from text to Workload: TOML -> plain dictionaries -> each job's sweep expanded -> tables checked by the
models of `planner.workloads.tables` -> names and references resolved -> frozen data. `describe_keys` lists every key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydraplan.planner.workloads.sweep import SweepPoint, expand
from hydraplan.planner.workloads.tables import (
    ClusterTable,
    DeviceTable,
    JobTable,
    LinkTable,
    ModelTable,
    Problem,
    check_table,
)
from hydraplan.plans.file.positions import DEEPEST, line_nested_deeper
from hydraplan.plans.file.reading import MOST_WORKLOAD_BYTES, UnreadableError, read_bounded
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.optimizer import wrong_arguments
from hydraplan.plans.language.workload import HOST, Checkpoint, Cluster, Device, Job, Link, Profile, Target, Workload

ReadProfile = Callable[[str, Path], Profile]
"""(name or file, folder that a file is relative to) -> Profile; raises WorkloadError."""

_LONG = re.compile(r"\d[\d_]{4000,}")
MOST_DIVIDED = 10_000
"""Divisors up to this are looked for: nobody cuts a batch into more microbatches."""
TOP_LEVEL = ("cluster", "jobs")


def load(path: Path | str) -> Workload:
    """Read a workload file. Raises WorkloadError with every mistake that was found."""
    path = Path(path)
    try:
        text = read_bounded(path, MOST_WORKLOAD_BYTES)
    except OSError as error:
        raise WorkloadError(f"cannot read the workload {path}: {error.strerror or error}") from None
    except UnreadableError as error:
        raise WorkloadError(f"{path}, {error}") from None
    return parse(text, name=str(path), folder=path.parent)


def parse(text: str, *, name: str, folder: Path, read_profile: ReadProfile | None = None) -> Workload:
    """The same, of text; `name` stands in messages, and files that the text names are relative to `folder`."""
    document = _toml(text, name)
    reader = _Reader(folder, read_profile or _read_profile)
    workload = reader.read(document)
    if reader.problems:
        lines = list(dict.fromkeys(str(problem) for problem in reader.problems))
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise WorkloadError("\n  ".join([f"{name}: {count}", *lines]))
    assert workload is not None
    return workload


def _toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        end = f"(at line {text.count(chr(10)) + 1}, the end of the file)"
        raise WorkloadError(f"{name} is not TOML: {str(error).replace('(at end of document)', end)}") from None
    except RecursionError:
        line = line_nested_deeper(text, DEEPEST)
        raise WorkloadError(f"{name}, line {line}: nested too deep to be a workload; restore that line") from None
    except ValueError as error:  # of Python's own limit on digits
        found = _LONG.search(text)
        line = text.count("\n", 0, found.start()) + 1 if found is not None else 1
        raise WorkloadError(f"{name}, line {line}: {error}; write fewer digits") from None


def _read_profile(name: str, folder: Path) -> Profile:
    from hydraplan.planner.costs import calibrate, catalogue

    known = catalogue.profiles()
    if name in known:
        return known[name]
    path = folder / name
    if path.is_file():
        return calibrate.read_profile(path)
    near = get_close_matches(name, known, n=1)
    raise WorkloadError(
        f"{name!r} is neither a file (looked for {path}) nor in the catalogue"
        + (f"; did you mean {near[0]!r}?" if near else f" ({', '.join(sorted(known))})")
        + f"; measure one with: hydraplan profile -o {path}"
    )


class _Reader:
    """One reading: collects problems instead of stopping at the first."""

    def __init__(self, folder: Path, read_profile: ReadProfile) -> None:
        self.folder = folder
        self.read_profile = read_profile
        self.problems: list[Problem] = []
        self.profiles: dict[str, Profile] = {}

    def problem(self, path: str, text: str) -> None:
        self.problems.append(Problem(path=path, text=text))

    def read(self, document: Mapping[str, Any]) -> Workload | None:
        for key in sorted(set(document) - set(TOP_LEVEL)):
            near = get_close_matches(key, TOP_LEVEL, n=1)
            self.problem(
                key, "unknown key; " + (f"did you mean {near[0]!r}?" if near else "a workload has cluster and jobs")
            )
        cluster = self.cluster(document)
        jobs = self.jobs(document)
        return None if self.problems or cluster is None else Workload(cluster=cluster, jobs=jobs)

    # -- cluster ----------------------------------------------------------------------------------

    def cluster(self, document: Mapping[str, Any]) -> Cluster | None:
        if not isinstance(document.get("cluster"), dict):
            self.problem("cluster", "missing; describe the devices and the host in a table [cluster]")
            return None
        table, problems = check_table(ClusterTable, document["cluster"], "cluster")
        self.problems.extend(problems)
        if table is None:
            return None
        links = {name: _link(name, link) for name, link in sorted(table.links.items())}
        devices: list[Device] = []
        for index, device in enumerate(table.devices):
            devices.extend(self.devices(device, f"cluster.devices[{index}]", table, links))
        self.unique([device.name for device in devices], "cluster.devices", "devices")
        self.unused_links(table, devices)
        host_profile = self.profile(table.host.profile or table.profile, "cluster.host.profile")
        return Cluster(
            devices=tuple(devices),
            links=tuple(links[name] for name in sorted(links)),
            profiles=tuple(self.profiles[name] for name in sorted(self.profiles)),
            host_memory_bytes=table.host.memory,
            host_profile=host_profile,
            update_workers=table.host.update_workers,
        )

    def devices(self, table: DeviceTable, path: str, cluster: ClusterTable, links: dict[str, Link]) -> list[Device]:
        """The devices of one table: `count` equal ones, numbered from 0 where there are several."""
        if table.link is not None and table.bandwidth is not None:
            self.problem(
                f"{path}.bandwidth", "give either the name of a shared link or a bandwidth of its own, not both"
            )
        if table.link is not None and table.link not in cluster.links:
            near = get_close_matches(table.link, cluster.links, n=1)
            advice = f"did you mean {near[0]!r}?" if near else "define it in cluster.links"
            self.problem(f"{path}.link", f"there is no link {table.link!r}; {advice}")
        profile = self.profile(table.profile or cluster.profile, f"{path}.profile")
        made = []
        for number in range(table.count or 1):
            name = table.name if table.count is None else f"{table.name}{number}"
            if name == HOST:
                self.problem(f"{path}.name", f"{HOST!r} is the host's own name; choose another")
            link = table.link or f"{name}-link"
            if table.link is None:
                if link in cluster.links:
                    self.problem(f"{path}.name", f"its own link would be called {link!r}, a name in cluster.links")
                links[link] = _link(link, table.bandwidth or LinkTable())
            backing = f"cuda:{number}" if table.backing == "cuda" else table.backing
            made.append(Device(name=name, backing=backing, budget_bytes=table.budget, link=link, profile=profile))
        return made

    def profile(self, name: str | None, path: str) -> str:
        """Read a profile once; returns the name under which the cluster holds it."""
        if name is None:
            self.problem(
                path,
                "missing; write here, or for all as cluster.profile, "
                "a file that `hydraplan profile -o FILE` wrote or a catalogue entry",
            )
            return ""
        try:
            profile = self.read_profile(name, self.folder)
        except WorkloadError as error:
            self.problem(path, str(error))
            return ""
        if self.profiles.setdefault(profile.name, profile) != profile:
            self.problem(
                path, f"another profile is called {profile.name!r} too, with other figures; rename one in its file"
            )
        return profile.name

    def unused_links(self, table: ClusterTable, devices: list[Device]) -> None:
        for name in sorted(set(table.links) - {device.link for device in devices}):
            self.problem(f"cluster.links.{name}", "no device names it; give a device this link or remove it")

    def unique(self, names: list[str], path: str, what: str) -> None:
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.problem(path, f"{names.count(name)} {what} are called {name!r}; names are unique")

    # -- jobs -------------------------------------------------------------------------------------

    def jobs(self, document: Mapping[str, Any]) -> tuple[Job, ...]:
        tables = document.get("jobs")
        if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
            self.problem("jobs", "missing; describe at least one job in a table [[jobs]]")
            return ()
        jobs: list[Job] = []
        names: list[str] = []
        lengths: dict[Target, int] = {}
        for index, raw in enumerate(tables):
            points, problems = expand(raw, f"jobs[{index}]")
            self.problems.extend(problems)
            for point in points:
                table, problems = check_table(JobTable, point.table, f"jobs[{index}]", point.path)
                self.problems.extend(problems)
                if table is not None:
                    names.append(table.name)
                    job = self.job(table, f"jobs[{index}]", point, lengths)
                    jobs.extend([job] if job is not None else [])
        self.unique(names, "jobs", "jobs")
        return tuple(jobs)

    def job(self, table: JobTable, path: str, point: SweepPoint, lengths: dict[Target, int]) -> Job | None:
        before = len(self.problems)
        if table.batch_size % table.microbatches:
            right = ", ".join(map(str, divisors(table.batch_size)))
            self.problem(
                point.path(("microbatches",), path),
                f"{table.microbatches} does not divide the batch size {table.batch_size}; write one of {right}"
                + ("" if table.batch_size < MOST_DIVIDED else f" (or a larger divisor than {MOST_DIVIDED})"),
            )
        if (table.steps is None) == (table.epochs is None):
            self.problem(path, "give either steps or epochs" + (", not both" if table.steps is not None else ""))
        optimizer = table.optimizer.target()
        for name, cause, remedy in wrong_arguments(optimizer):
            self.problem(point.path(("optimizer", name), path), f"{cause}; {remedy}")
        if len(self.problems) > before:
            return None
        data = table.data.target()
        steps = table.steps
        if steps is None:
            steps = self.steps(table, data, path, lengths)
        model, checkpoint = self.model(table.model, point.path(("model",), path))
        return Job(
            name=table.name,
            model=model,
            data=data,
            loss=table.loss.target() if table.loss is not None else None,
            optimizer=optimizer,
            steps=steps,
            batch_size=table.batch_size,
            microbatches=table.microbatches,
            seed=table.seed,
            threads=table.threads,
            precision=table.precision,
            checkpoint=checkpoint,
            lengths=table.lengths.lengths() if table.lengths is not None else None,
            base=table.base,
            audit=table.audit,
        )

    def model(self, table: ModelTable, path: str) -> tuple[Target, Checkpoint | None]:
        """What to call, or what to load: then the class is the one that the checkpoint was saved from."""
        if table.checkpoint is None:
            return Target(path=table.call or "", arguments=table.arguments()), None
        from hydraplan.planner.frontend.models.checkpoint import absolute, architecture

        checkpoint = Checkpoint(
            folder=absolute(table.checkpoint, self.folder),
            initialise=tuple(table.initialise),
            ignore=tuple(table.ignore),
        )
        try:
            named = table.architecture or architecture(checkpoint.folder)
        except WorkloadError as error:
            self.problem(path, str(error))
            named = ""
        named = named if ":" in named else f"transformers:{named}"
        return Target(path=named, arguments=table.arguments()), checkpoint

    def steps(self, table: JobTable, data: Target, path: str, lengths: dict[Target, int]) -> int:
        """Training steps of the job's epochs; opens its data set once to learn its length."""
        from hydraplan.planner.frontend.users.data import open_dataset, steps_of_epochs

        assert table.epochs is not None
        try:
            if data not in lengths:
                lengths[data] = len(open_dataset(data, table.seed))
        except WorkloadError as error:
            self.problem(f"{path}.data", str(error))
            return 0
        steps = steps_of_epochs(table.epochs, lengths[data], table.batch_size)
        if steps == 0:
            self.problem(
                f"{path}.batch_size", f"an epoch has {lengths[data]} items, fewer than one batch of {table.batch_size}"
            )
        return steps


def divisors(number: int) -> list[int]:
    """What divides a number, ascending; of a number of `MOST_DIVIDED` or more, of the divisors below that."""
    return [each for each in range(1, min(number, MOST_DIVIDED - 1) + 1) if number % each == 0]


def _link(name: str, table: LinkTable) -> Link:
    return Link(name=name, load_bytes_per_s=table.load, spill_bytes_per_s=table.spill)
