"""The table of families: which pass the bit test, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from hydraplan.tools.families.tiny import TABLES
from hydraplan.tools.families.trial import ROWS, STEPS, Outcome

Row = Mapping[str, str]


def markdown(rows: Sequence[Row], outcomes: Mapping[str, Outcome]) -> str:
    """TABLE.md, from the list of what exports and the outcomes of its families."""
    exports = [row for row in rows if row["status"] == "exports"]
    tried = [outcomes[row["entry"]] for row in exports if row["entry"] in outcomes]
    parts = [
        "# transformers, by family",
        "",
        f"transformers {version('transformers')}, torch {version('torch')}. Written by `make families`.",
        "",
        "Each family is a tiny model of its class, planned, cut into at least three shards and executed.",
        f"*Plain loop*: without dropout and streamed, losses and weights after {STEPS} training steps of {ROWS} rows",
        "equal those of a plain PyTorch loop, bit for bit. *Two plans*: with every dropout that the family has, two",
        "plans that differ in cuts, device, residency, keep or recompute, and place of update end with the same bits.",
        "",
        *_summary(rows, outcomes),
        "",
        f"Not tried yet: {len(exports) - len(tried)}." if len(tried) < len(exports) else "",
        *_reasons("Do not pass", [(each.entry, each.class_name, each.reason) for each in tried if not each.passes]),
        *_reasons(
            "Cannot be traced by torch.export, or not built",
            [(row["entry"], row["class"], row["reason"]) for row in rows if row["status"] != "exports"],
        ),
        *_passing([each for each in tried if each.passes]),
    ]
    return "\n".join(parts) + "\n"


def _summary(rows: Sequence[Row], outcomes: Mapping[str, Outcome]) -> list[str]:
    lines = ["| table | entries | torch.export traces | pass |", "| --- | ---: | ---: | ---: |"]
    for title in [*TABLES, "all"]:
        own = [row for row in rows if title in ("all", row["entry"].partition("/")[0])]
        exports = [row["entry"] for row in own if row["status"] == "exports"]
        passing = [name for name in exports if name in outcomes and outcomes[name].passes]
        lines.append(f"| {title} | {len(own)} | {len(exports)} | {len(passing)} |")
    return lines


def _reasons(title: str, found: Sequence[tuple[str, str, str]]) -> list[str]:
    if not found:
        return []
    lines = [f"| {name} | {class_name} | {cell(why)} |" for name, class_name, why in found]
    return [f"## {title}", "", "| family | class | reason |", "| --- | --- | --- |", *lines, ""]


def _passing(found: Sequence[Outcome]) -> list[str]:
    lines = [f"| {each.entry} | {each.class_name} | {', '.join(map(str, each.shards))} |" for each in found]
    return [
        "## Pass",
        "",
        "| family | class | shards (plain loop, one plan, other plan) |",
        "| --- | --- | --- |",
        *lines,
    ]


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
