"""How long planning takes, and in how much memory: a sweep of twelve GPT-2 XL, and one GPT-J of six billion parameters.

    tools/bench/gpt2_xl.toml    12 jobs on 8 devices of 11 GiB
    tools/bench/gpt_j.toml      1 job on 1 device of 11 GiB

Each is planned by `hydraplan plan` in a process of its own, as a user would; the kernel's own account of that process
gives CPU time and peak memory. The aim: under 60 s and 2 GiB each, on two cores. The last line is a JSON object: for
each, `seconds`, `cpu_seconds`, `rss_bytes`, `makespan_us`, `gap` (makespan over the lower bound, less one) and the
solver's own gap; `within`: whether both aims are met.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from plans.text import loads
from tools.output import size_text

HERE = Path(__file__).parent
WORKLOADS = ("gpt2_xl", "gpt_j")
MOST_SECONDS = 60
MOST_BYTES = 2 << 30
KIB = 1024


def main() -> None:
    figures = {name: planned(HERE / f"{name}.toml") for name in WORKLOADS}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
