"""Whether a plan's code may run here, and is what it was; asked before any of it does.

what may be imported -> what has changed -> what may be called
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hydraplan.planner.frontend.models.fingerprints import code_drift
from hydraplan.planner.frontend.users.admission import refuse_before_call, refuse_before_import
from hydraplan.plans.language.errors import StalePlanError
from hydraplan.plans.language.plan import Fingerprint
from hydraplan.plans.language.workload import Job


def admit(jobs: Sequence[Job], planned: Sequence[Fingerprint], allow: Collection[str] = ()) -> None:
    """Ask whether the code that a plan's jobs name may run; `planned`: the plan's fingerprints.

    Raises InvalidPlanError where it names what it may not call, and `allow` does not name it; StalePlanError where code
    or libraries have changed; WorkloadError where something cannot be imported.
    """
    refuse_before_import(jobs, planned, allow)
    changed = code_drift(jobs, planned)
    if changed:
        raise StalePlanError(changed)
    refuse_before_call(jobs, planned, allow)
