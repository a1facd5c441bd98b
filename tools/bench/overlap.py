"""How much of loading hides behind computing, where both take equally long.

Two byte-level GPT-2 jobs of 16 shards and more each share one device that holds at most four of these shards. The same
lists run on unthrottled links (that is what computing takes) and right after that on links throttled so that bytes /
bandwidth takes just as long as that run did; a perfect overlap would run no longer. All in one process; the first cycle
of each run is warm-up; median of five such pairs.

    time_over_bound    throttled cycle time / unthrottled cycle time; the aim is at most 1.25
    update_share       host update time / compute time
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from hydraplan.planner.costs.calibrate import calibrate
from hydraplan.planner.frontend.tracing.traced import TracedGraph
from hydraplan.planner.pipeline import plan
from hydraplan.planner.study import study
from hydraplan.plans.analysis.flow import Instance, refreshes, trace, unroll
from hydraplan.plans.language.plan import Plan
from hydraplan.plans.language.steps import Backward, Fetch, FetchBatch, Forward, Load, Update
from hydraplan.plans.language.workload import HOST, Cluster, Device, Job, Link, Profile, Target, Workload
from hydraplan.plans.prediction.durations import Durations
from hydraplan.plans.prediction.simulate import predict, simulate
from hydraplan.runtime import execute

MIB = 1 << 20
RUNS = 5
CYCLES = 16
LAYERS, WIDTH, BLOCK, ROWS = 16, 512, 32, 2
MOST_SHARDS = 4
JOBS = ("a", "b")
BUDGETS_MIB = (84, 80, 76, 72)


@lru_cache
def profile() -> Profile:
    return calibrate("cpu")


def workload(budget_bytes: int, bytes_per_s: int | None = None) -> Workload:
    """Two jobs, one device."""
    device = Device(name="cpu0", backing="cpu", budget_bytes=budget_bytes, link="link", profile=profile().name)
    arguments = (
        ("attn_pdrop", 0.0),
        ("embd_pdrop", 0.0),
        ("n_embd", WIDTH),
        ("n_head", 4),
        ("n_layer", LAYERS),
        ("n_positions", BLOCK),
        ("resid_pdrop", 0.0),
        ("use_cache", False),
        ("vocab_size", 256),
    )
    jobs = tuple(
        Job(
            name=name,
            model=Target(path="transformers:GPT2LMHeadModel", arguments=arguments),
            data=Target(path="hydraplan.tools.demo.data:python_source", arguments=(("block", BLOCK),)),
            loss=None,
            optimizer=Target(path="SGD", arguments=(("lr", 0.01),)),
            steps=CYCLES,
            batch_size=ROWS,
            microbatches=1,
            seed=1,
            threads=1,
            precision="fp32",
        )
        for name in JOBS
    )
    cluster = Cluster(
        devices=(device,),
        links=(Link(name="link", load_bytes_per_s=bytes_per_s, spill_bytes_per_s=bytes_per_s),),
        profiles=(profile(),),
        host_memory_bytes=4 << 30,
        host_profile=profile().name,
        update_workers=1,
    )
    return Workload(cluster=cluster, jobs=jobs)


def on_links_of(made: Plan, bytes_per_s: int | None) -> Plan:
    """The same lists on links of a given bandwidth."""
    cluster = made.workload.cluster
    links = tuple(replace(link, load_bytes_per_s=bytes_per_s, spill_bytes_per_s=bytes_per_s) for link in cluster.links)
    slower = replace(made, workload=replace(made.workload, cluster=replace(cluster, links=links)))
    return replace(slower, predictions=predict(slower))


def most_shards(made: Plan) -> int:
    """Most shards whose own slabs lie on the device at once, in list order."""
    flow = trace(made)
    slabs = [each for each in flow.instances if each.place != HOST and each.key.kind == "parameters"]
    own = [each for each in slabs if "+" not in each.key.slab]
    return max(sum(_lives(each, site) for each in own) for site in range(len(flow.sites)))


def _lives(instance: Instance, site: int) -> bool:
    return instance.begin <= site <= instance.end


def main_phase(made: Plan) -> int:
    """The phase with the most cycles."""
    return max(range(len(made.phases)), key=lambda number: made.phases[number].repeat)


def loaded_bytes(made: Plan) -> int:
    """Bytes from the host to the device in one cycle of the main phase."""
    durations, sites, phase = Durations(made), unroll(made), main_phase(made)
    over_present = refreshes(sites)
    return sum(
        durations.bytes_of(site.step, refresh=number in over_present)
        for number, site in enumerate(sites)
        if site[:3] == (phase, "cycle", 0) and isinstance(site.step, Load | Fetch | FetchBatch)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Of a cycle, in seconds."""

    cycle_s: float
    compute_s: float
    update_s: float


def measured(made: Plan) -> Times:
    """Means over all cycles but the first."""
    with tempfile.TemporaryDirectory() as folder:
        done = execute(made, Path(folder) / "run")
        if done.failed:
            raise SystemExit(f"jobs failed: {done.failed}")
        record = json.loads((Path(folder) / "run" / "record.json").read_text())
    number = main_phase(made)
    cycle = made.phases[number].cycle
    iterations = record["phases"][number]["cycle"]["times"]
    assert len(iterations) == made.phases[number].repeat, "so few iterations are recorded step by step"
    last = [
        max(times[1] for step, times in zip(cycle, run, strict=True) if isinstance(step, Forward | Backward))
        for run in iterations
    ]

    def busy(*kinds: type) -> float:
        spans: list[float] = [
            times[1] - times[0]
            for run in iterations[1:]
            for step, times in zip(cycle, run, strict=True)
            if isinstance(step, kinds)
        ]
        return sum(spans) / (len(iterations) - 1) / 1e6

    return Times(
        cycle_s=(last[-1] - last[0]) / (len(iterations) - 1) / 1e6,
        compute_s=busy(Forward, Backward),
        update_s=busy(Update),
    )


def plan_of_few_shards() -> Plan:
    """Lists made for links as slow as computing, with a shard for every block, of which at most four fit.

    Of the budgets for which that is so, the one with the best prediction is taken. What is loaded depends on the lists,
    so the link is balanced again for them.
    """
    roomy = workload(128 * MIB)
    studied = study(roomy.jobs)
    cuts = {job: block_borders(studied.graphs[graph].traced) for job, graph in studied.graph_of.items()}
    unlimited = plan(roomy, studied=studied, cuts=cuts)
    rate = balanced_rate(unlimited, measured(unlimited))
    found = []
    for budget in BUDGETS_MIB:
        made = plan(workload(budget * MIB, rate), studied=studied, cuts=cuts)
        most, predicted = most_shards(made), predicted_ratio(made)
        print(f"budget {budget} MiB: at most {most} shards on the device, predicted {predicted:.3f}", file=sys.stderr)
        if most <= MOST_SHARDS:
            found.append((predicted, made))
    if not found:
        raise SystemExit(f"no budget at which at most {MOST_SHARDS} shards fit")
    return min(found, key=lambda each: each[0])[1]


def predicted_ratio(made: Plan) -> float:
    """What the simulator says of `time_over_bound`, where loading takes as long as it says that computing takes."""
    free = predicted_cycle_us(on_links_of(made, None))
    slow = on_links_of(made, round(loaded_bytes(made) * 1_000_000 / free))
    return predicted_cycle_us(slow) / free


def balanced_rate(made: Plan, times: Times) -> int:
    """The bandwidth at which loading takes as long as a cycle did."""
    return round(loaded_bytes(made) / times.cycle_s)


def block_borders(graph: TracedGraph) -> tuple[int, ...]:
    """Where each transformer block but the first begins."""
    return tuple(
        next(
            position
            for position in graph.cut_positions
            if graph.nodes[position].meta["source"].module.startswith(f"transformer.h.{block}.")
        )
        for block in range(1, LAYERS)
    )


def main() -> None:
    made = plan_of_few_shards()
    free = on_links_of(made, None)
    measured(free)  # files are read and caches warm after that
    computing, ratios, rates = [], [], []
    for number in range(RUNS):
        computing.append(measured(free))
        rates.append(balanced_rate(made, computing[-1]))
        limited = measured(on_links_of(made, rates[-1]))
        ratios.append(limited.cycle_s / computing[-1].cycle_s)
        print(f"run {number}: {computing[-1].cycle_s:.3f} s unthrottled, {limited.cycle_s:.3f} s", file=sys.stderr)
    print(
        json.dumps(
            {
                "benchmark": "overlap",
                "time_over_bound": round(statistics.median(ratios), 3),
                "ratios": [round(ratio, 3) for ratio in ratios],
                "shards": [len(layout.shards) for layout in made.facts.layouts],
                "most_shards_on_device": most_shards(made),
                "link_bytes_per_s": rates,
                "compute_share": round(statistics.median(each.compute_s / each.cycle_s for each in computing), 3),
                "update_share": round(statistics.median(each.update_s / each.compute_s for each in computing), 3),
                "predicted_time_over_bound": round(predicted_ratio(made), 3),
            }
        )
    )


def predicted_cycle_us(made: Plan) -> int:
    """The simulator's period of a cycle."""
    return simulate(made).phases[main_phase(made)].period_us


if __name__ == "__main__":
    main()
