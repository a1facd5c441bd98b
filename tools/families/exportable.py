"""Which of transformers' families can torch.export trace at all? `python -m hydraplan.tools.families.exportable`

    entries -> real model in train() -> torch.export(strict=False) -> JSON

Nothing of hydraplan is imported: the list says what it has to be able to train, so it must not depend on it.
Every entry runs in a process of its own, so that a crash or a hang costs that entry alone; a second run goes on
where the first stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from hydraplan.tools.families.tiny import Entry, entries, entry, make_item, make_model

HERE = Path(__file__).parent
LIST = HERE / "exportable.json"
ROWS = 2
"""Samples in the batch that is exported."""
SECONDS = 240
"""Most time of one entry."""

WARM = [
    "torch",
    "transformers",
    "torch.export._trace",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "mixtral", "bert", "t5", "vit")),
]
"""Modules that every process has from its start."""


# -- export -------------------------------------------------------------------------------------------


class WithLoss(nn.Module):
    """A model under its own loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        loss: Tensor | None = getattr(self.model(**batch), "loss", None)
        if loss is None:
            raise TypeError("the model's output has no loss")
        return loss


def quiet() -> None:
    """No warnings about models that only get traced."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity(logging.CRITICAL)


def examine(which: Entry) -> dict[str, str]:
    """Try to build and to export the entry; its row of the list."""
    quiet()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    row = {"entry": which.name, "class": which.class_name}
    try:
        model = WithLoss(make_model(which)).train()
        items = [make_item(which, number) for number in range(ROWS)]
        batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    except Exception as error:  # whatever the library raises is the reason
        return row | {"status": "cannot be built", "reason": reason(error)}
    try:
        torch.export.export(model, (batch,), strict=False)
    except Exception as error:
        return row | {"status": "cannot be exported", "reason": reason(error)}
    return row | {"status": "exports", "reason": ""}


def reason(error: BaseException) -> str:
    """What went wrong and where in the library, in one line."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/transformers/" in f.filename]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:240]}{place}"


# -- all of them, each in a process of its own --------------------------------------------------------


def in_process(work: Callable[[Any], Any], argument: Any, *, seconds: float = SECONDS) -> Any:
    """`work(argument)` in a process of its own that has torch and transformers already; RuntimeError where it dies."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, work, argument), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise RuntimeError(f"ran for more than {seconds:.0f} s")
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process died with exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()


def _child(sender: Any, work: Callable[[Any], Any], argument: Any) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # torch prints whole graphs that it cannot trace
        os.dup2(nowhere, stream)
    sender.send(work(argument))


def row_of(which: Entry) -> dict[str, str]:
    try:
        row: dict[str, str] = in_process(examine, which)
    except RuntimeError as error:
        row = {
            "entry": which.name,
            "class": which.class_name,
            "status": "cannot be exported",
            "reason": str(error),
        }
    return row


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """A row a line, in the order of the tables."""
    order = {each.name: number for number, each in enumerate(entries())}
    lines = ",\n".join(json.dumps(row) for row in sorted(rows, key=lambda row: order[row["entry"]]))
    path.write_text(f"[\n{lines}\n]\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Which of transformers' families can torch.export trace?")
    parser.add_argument("entries", nargs="*", help="names such as causal-lm/gpt2; default: those not in the list yet")
    parser.add_argument("--list", type=Path, default=LIST)
    parser.add_argument("--again", action="store_true", help="start anew")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    multiprocessing.set_forkserver_preload(WARM)
    rows = {}
    if arguments.list.exists() and not arguments.again:
        rows = {row["entry"]: row for row in json.loads(arguments.list.read_text())}
    chosen = [entry(name) for name in arguments.entries] or [each for each in entries() if each.name not in rows]
    with ThreadPoolExecutor(arguments.workers) as pool:
        for done in as_completed([pool.submit(row_of, each) for each in chosen]):
            row = done.result()
            rows[row["entry"]] = row
            write(arguments.list, list(rows.values()))
            print(row["entry"], row["status"], row["reason"], file=sys.stderr, flush=True)
    counts = {status: sum(row["status"] == status for row in rows.values()) for status in sorted({*_statuses(rows)})}
    print(f"{len(rows)} entries: " + ", ".join(f"{number} {status}" for status, number in counts.items()))
    return 0


def _statuses(rows: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    return (row["status"] for row in rows.values())


if __name__ == "__main__":
    sys.exit(main())
