"""The published schema is current and says of a plan what `loads` says.

HYDRAPLAN_UPDATE=1 pytest tests/plans/file/test_schema.py    writes it anew
"""

from __future__ import annotations

import json
import os
from typing import Any

import jsonschema
import pytest
from support.drawnplan import drawn_plan
from support.toyplan import toy_plan

from hydraplan.plans.file.schema import SCHEMA, schema_text
from hydraplan.plans.file.text import dumps, loads
from hydraplan.plans.language.errors import InvalidPlanError


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_committed_schema_is_current() -> None:
    if os.environ.get("HYDRAPLAN_UPDATE"):
        SCHEMA.write_text(schema_text())
    assert SCHEMA.read_text() == schema_text(), "run this test with HYDRAPLAN_UPDATE=1"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_plans_are_valid(validator: Any, seed: int) -> None:
    validator.validate(json.loads(dumps(drawn_plan(seed), {"/phases/0": "a note"})))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"slab": "0"', '"slub": "0"'),
        ('"op": "load"', '"op": "lod"'),
        ('"what": "batch"', '"what": "bitch"'),
        ('"steps": 4', '"steps": "4"'),
        ('"steps": 4', '"steps": 0'),
        ('"repeat": 2', '"repeat": 0'),
        ('"microbatches": [0, 2]', '"microbatches": [0, 2, 3]'),
        ('"format": "hydraplan-plan/1"', '"format": "other"'),
        ('"lr": 0.001', '"lr": {"a": 1}'),
        ('"op": "update"', '"op": "update", "what": "parameters"'),
    ],
)
def test_schema_and_reader_refuse_the_same(validator: Any, old: str, new: str) -> None:
    text = dumps(toy_plan())
    broken = text.replace(old, new, 1)
    assert broken != text
    assert not validator.is_valid(json.loads(broken))
    with pytest.raises(InvalidPlanError):
        loads(broken)
