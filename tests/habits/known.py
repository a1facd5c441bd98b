"""What is not right yet, by row; `-rX` shows which marks have to go with their mend."""

from __future__ import annotations

import pytest

KNOWN: dict[str, str] = {
    "attention kernels-MathKernelStatement": "refused by the line of the first operator under the flag, in a helper",
    "attention kernels-MathKernelDecorator": "refused by the line of the first operator under the flag, in a helper",
    "attention kernels-FlashSwitchedOff": "refused by the line of the first operator under the flag, in a helper",
    "attention kernels-KernelOfASubmodule": "refused by the line of the first operator under the flag, in a helper",
    "checkpointed batch norm-NonReentrant": "refused, where the plain loop's two updates are wanted",
    "checkpointed batch norm-Reentrant": "refused, where the plain loop's two updates are wanted",
    "checkpointed batch norm-Sequential": "refused, where the plain loop's two updates are wanted",
    "checkpointed batch norm-DenseLayer": "refused, where the plain loop's two updates are wanted",
    "checkpointed batch norm-Nested": "refused, where the plain loop's two updates are wanted",
    "checkpointed batch norm-CumulativeAverage": "refused, where the plain loop's two updates are wanted",
    "checkpointed batch norm-StatisticsOfItsOwn": "refused, where the plain loop's two updates are wanted",
    "draws in imports-ImportsWhenMade": "refused by an audit that stopped: no line, no remedy that helps",
    "draws in imports-made_by_a_factory": "refused by an audit that stopped: no line, no remedy that helps",
    "models that differ-AsksTheClockInItsConstructor": "refused by the audit: no line, no remedy",
    "models that differ-numbered": "refused by the audit: no line, no remedy",
    "complex parameters-GlobalFilter": "refused by the parameter's name: no line",
    "complex parameters-ComplexLinear": "refused by the parameter's name: no line",
    "overlapping storages-RowsOfAnother": "refused by the parameter's name: no line",
    "overlapping storages-Transposed": "refused by the parameter's name: no line",
    "overlapping storages-FlatStorage": "refused by the parameter's name: no line",
    "slices of one storage-ColumnsOfOne": "refused by the parameter's name: no line",
    "expanded parameters-ExpandedRow": "refused by the parameter's name: no line",
    "expanded parameters-ExpandedNumber": "refused by the parameter's name: no line",
    "expanded parameters-ExpandedWeight": "refused by the parameter's name: no line",
    "autocast inside-Bfloat16Inside": "refused by the audit: a line of torch's own, no remedy that helps",
    "requires_grad flags-TogglesAround": "refused by the audit: a line of torch's own, no remedy that helps",
    "weights of a class-QuantisedWeight": "plan crashes: AttributeError, a weight that is a tensor of a class",
    "lazy modules-LazyWithADryRun": "refused, but not by its line",
    "tensors in attributes-MemoryBank": "refused, but not by its line",
    "grad modes-NoGradStatement": "plan crashes: a list of its own breaks the order of updates",
    "caches-CacheOfTheModule": "stale when executed in the same process: planning filled the cache",
    "caches-CacheByDecorator": "stale when executed in the same process: planning filled the cache",
}

CRASHES: dict[str, str] = dict.fromkeys(
    [f"copied modules-{each}" for each in ("MomentumEncoder", "Clones", "copy_of_a_model", "AveragedModel")],
    "copy.deepcopy of a batch norm is refused, and the interpreter crashes in its garbage collector",
)
"""Rows that end the interpreter (or break it, so that it ends later)."""


def known(key: str) -> list[pytest.MarkDecorator]:
    if key in CRASHES:
        return [pytest.mark.xfail(reason=CRASHES[key], run=False)]
    return [pytest.mark.xfail(reason=KNOWN[key], strict=False)] if key in KNOWN else []
