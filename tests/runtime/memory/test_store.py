"""The host store: flat slabs filled from the real model, and saved under its own names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.chain import Chain, built_chain, chain_graph

from hydraplan.plans.language.errors import RunError
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.workload import Target
from hydraplan.runtime.devices.cpu import pages
from hydraplan.runtime.memory.store import HostStore

ADAMW = state_of(Target(path="AdamW"), "fp32")


def test_state_dict_comes_back_as_it_was() -> None:
    model = Chain(3)
    store = HostStore(pages)
    store.add("a", chain_graph(3, 4), ADAMW, built_chain(model))
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    state = store.state_dict("a")
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    Chain(3).load_state_dict(state)


def test_slabs_are_flat_aligned_and_state_is_zero() -> None:
    graph = chain_graph(3, 4)
    store = HostStore(pages)
    store.add("a", graph, ADAMW, built_chain(Chain(3)))
    for slab in graph.slabs:
        host = store.slab("a", slab.name)
        assert host.parameters.size == slab.parameter_bytes
        assert host.optimizer.size == 2 * slab.trainable_bytes
        assert not host.optimizer.bytes.any()
        assert all(value.data_ptr() % 256 == 0 for value in host.parameters.tensors.values())
        second = host.optimizer.laid_out(f"exp_avg_sq/{slab.entries[0].name}")
        assert second.data_ptr() - host.optimizer.bytes.data_ptr() == slab.trainable_bytes


def test_tied_names_and_unread_tensors_are_saved() -> None:
    built = built_chain(Chain(3))
    built = replace(
        built,
        unread={"steps": torch.tensor(7), "nothing": torch.empty(5, 0)},
        saved_names={**built.saved_names, "head": "embed", "steps": "steps", "nothing": "nothing"},
    )
    store = HostStore(pages)
    store.add("a", chain_graph(3, 4), state_of(Target(path="SGD"), "fp32"), built)
    state = store.state_dict("a")
    assert torch.equal(state["head"], state["embed"])
    assert state["head"].data_ptr() != state["embed"].data_ptr()
    assert state["steps"].item() == 7
    assert state["nothing"].shape == (5, 0)


def test_a_model_that_is_not_the_planned_one_is_refused() -> None:
    built = built_chain(Chain(3))
    missing = replace(built, tensors={name: value for name, value in built.tensors.items() if name != "biases.1"})
    with pytest.raises(RunError, match=r"job a: its model has no tensor biases\.1"):
        HostStore(pages).add("a", chain_graph(3, 4), ADAMW, missing)
    other = replace(built, tensors={**built.tensors, "biases.1": torch.zeros(3)})
    with pytest.raises(RunError, match=r"biases\.1 is torch\.float32 \(3,\) in the model"):
        HostStore(pages).add("a", chain_graph(3, 4), ADAMW, other)
