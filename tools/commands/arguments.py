"""Arguments that several commands share: what they are called, what they take, what help says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from cyclopts import Parameter, Token

if TYPE_CHECKING:
    from hydraplan.planner.scheduling.solver import SolverOptions

Value = TypeVar("Value")


def converter(read: Callable[[str], Value]) -> Callable[[type, Sequence[Token]], Value]:
    """What cyclopts calls to read one argument; `read` raises ValueError with what would be right."""
    return lambda _hint, tokens: read(tokens[0].value)


def from_one(written: str) -> int:
    """A whole number, at least 1, that a machine word holds."""
    try:
        value = int(written) if len(written) < 20 else 0
    except ValueError:
        value = 0
    if not 1 <= value < 2**63:
        raise ValueError(f"{written[:40]!r} is not a whole number from 1")
    return value


PlanFile = Annotated[Path, Parameter(name="PLAN", help="a plan file")]
WorkloadFile = Annotated[Path, Parameter(name="WORKLOAD", help="a workload file (TOML)")]
AsJson = Annotated[bool, Parameter(name="--json", help="print one JSON document instead of text and tables")]
Quiet = Annotated[bool, Parameter(name="--quiet", help="no progress on stderr")]
Solver = Annotated[Literal["highs", "cbc"], Parameter(name="--solver", show_default=True, help="solver of the MILP")]
TimeLimit = Annotated[
    int | None,
    Parameter(
        name="--time-limit",
        converter=converter(from_one),
        help="most seconds for one solve (a plan that met the limit says so)",
    ),
]
Effort = Annotated[
    int | None,
    Parameter(
        name="--effort",
        converter=converter(from_one),
        help="lines of lists to simulate in search of a better plan, at most",
    ),
]

Audits = Annotated[
    Literal["always", "auto", "never"],
    Parameter(
        name="--audit",
        show_default=True,
        help="train two steps of each graph beside its model and compare all bits; auto: where that takes seconds",
    ),
]

Allow = Annotated[
    tuple[str, ...],
    Parameter(
        name="--allow",
        help="package.module:callable that the plan may call although it is neither in the working directory nor "
        "installed with a version that the plan names; may be repeated",
    ),
]


def solver_options(solver: Literal["highs", "cbc"], time_limit: int | None, effort: int | None) -> SolverOptions:
    from hydraplan.planner.scheduling.solver import SolverOptions

    options = SolverOptions(name=solver)
    if time_limit is not None:
        options = replace(options, solve_seconds=time_limit)
    if effort is not None:
        options = replace(options, effort=effort)
    return options
