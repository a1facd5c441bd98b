"""The trial of transformers' families: a few of them here, all by `make families`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from hydraplan.tools.families.__main__ import exit_code
from hydraplan.tools.families.exportable import LIST
from hydraplan.tools.families.table import markdown
from hydraplan.tools.families.tiny import TABLES, entries, entry, make_item, make_model, tiny_config
from hydraplan.tools.families.trial import Outcome, Result, trial

# Rotary positions, grouped heads and experts; one layer used twice; images.
FEW = ["causal-lm/mixtral", "masked-lm/albert", "image-classification/vit"]


@pytest.mark.parametrize("name", FEW)
def test_a_family_equals_the_plain_loop_and_does_not_depend_on_the_plan(name: str) -> None:
    outcome = trial(name)
    assert outcome.passes, outcome.reason
    assert min(outcome.shards) >= 3


def test_a_single_bit_is_told() -> None:
    one = Result(losses=(1.0, 2.0), weights={"a": torch.ones(2)})
    assert one.difference(one) == ""
    assert "step 1" in one.difference(replace(one, losses=(1.0, 2.0000000000000004)))
    assert one.difference(replace(one, weights={"a": torch.tensor([1.0, 1.0000001])})) == "a differs"
    assert one.difference(replace(one, weights={})) == "a is missing"


def test_fewer_than_95_percent_are_a_failure() -> None:
    assert [exit_code(passed, 266) for passed in (266, 253, 252, 0)] == [0, 0, 1, 1]


def test_the_list_has_every_entry_once() -> None:
    rows = json.loads(LIST.read_text())
    names = [row["entry"] for row in rows]
    assert names == [each.name for each in entries()]
    assert len(names) == sum(map(len, TABLES.values())) == 319
    assert sum(row["status"] == "exports" for row in rows) >= 220
    assert all(row["reason"] for row in rows if row["status"] != "exports")


def test_tiny_models_have_at_least_two_layers_and_dropout_on_demand() -> None:
    gpt2 = entry("causal-lm/gpt2")
    assert tiny_config(gpt2, dropout=False).n_layer == 2
    assert tiny_config(gpt2, dropout=False).attn_pdrop == 0
    assert tiny_config(gpt2, dropout=True).attn_pdrop == 0.1
    assert tiny_config(entry("causal-lm/llama"), dropout=True).attention_dropout == 0.1
    assert tiny_config(entry("image-classification/cvt"), dropout=False).drop_path_rate == (0.0, 0.0, 0.0)
    assert sum(each.numel() for each in make_model(gpt2).parameters()) < 100_000


def test_samples_are_the_same_at_every_call() -> None:
    bert = entry("masked-lm/bert")
    one, again, other = make_item(bert, 0), make_item(bert, 0), make_item(bert, 1)
    assert torch.equal(one["input_ids"], again["input_ids"])
    assert not torch.equal(one["input_ids"], other["input_ids"])


def test_the_table_names_reasons() -> None:
    rows = [
        {"entry": "causal-lm/a", "class": "A", "status": "exports", "reason": ""},
        {"entry": "causal-lm/b", "class": "B", "status": "exports", "reason": ""},
        {"entry": "causal-lm/c", "class": "C", "status": "cannot be built", "reason": "needs d | e"},
    ]
    passing = Outcome(
        entry="causal-lm/a", class_name="A", shards=(3, 3, 4), equals_plain_loop=True, plans_agree=True, seconds=1.0
    )
    failing = replace(passing, entry="causal-lm/b", equals_plain_loop=False, reason="the loss differs")
    text = markdown(rows, {each.entry: each for each in (passing, failing)})
    assert "| causal-lm | 3 | 2 | 1 |" in text
    assert "| causal-lm/a | A | 3, 3, 4 |" in text
    assert "| causal-lm/b | A | the loss differs |" in text
    assert "| causal-lm/c | C | needs d \\| e |" in text
