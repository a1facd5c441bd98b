"""The published JSON Schema of a plan file; `plans/schema.json` is its text, kept current by a test.

python -m hydraplan.plans.file.schema          prints it
"""

from __future__ import annotations

import json
from pathlib import Path

from hydraplan.plans.file.models import file_model

SCHEMA = Path(__file__).with_name("schema.json")


def schema_text() -> str:
    """The schema, as committed."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **file_model().model_json_schema()}
    return json.dumps(schema, indent=1) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
