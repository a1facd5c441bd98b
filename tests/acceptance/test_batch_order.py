"""A batch reaches the loss with its keys in the order of the data set's items, as default_collate has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.whole import cluster, plain_loop, run, whole_job

from hydraplan.planner import plan
from hydraplan.plans.language.workload import Target, Workload


@pytest.mark.parametrize(
    ("loss", "names"), [("positional", "x target"), ("last_is_wanted", "z m a"), ("unpacked", "inputs goal")]
)
def test_keys_keep_their_order(loss: str, names: str, tmp_path: Path) -> None:
    job = whole_job(
        "support.ordered:model",
        {},
        name="a",
        data=Target(path="support.ordered:rows", arguments=(("names", names),)),
        loss=Target(path=f"support.ordered:{loss}"),
    )
    made = plan(Workload(cluster=cluster(1), jobs=(job,)))
    assert run(made, tmp_path / "run")["a"].same_bits(plain_loop(job))
