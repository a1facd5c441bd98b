"""Slab updates have the bits of torch.optim with fused=True."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.chain import bundle

from hydraplan.planner.frontend.shards.program import SlabLayout
from hydraplan.plans.language.errors import WorkloadError
from hydraplan.plans.language.optimizer import state_of
from hydraplan.plans.language.workload import Precision, Target
from hydraplan.runtime.devices.cpu import pages
from hydraplan.runtime.memory import optimizer as module
from hydraplan.runtime.memory.optimizer import SlabUpdate, kernel_of, pieces_of
from hydraplan.runtime.memory.regions import Region, store
from hydraplan.runtime.memory.store import state_layouts, view_on

SHAPES = {"a": (37, 19), "b": (19,), "c": (3, 5, 7), "d": ()}
SITES = {"a": ((1, "a@late"), (0, "a@early")), "b": ((0, "b"),), "c": ((1, "c"),), "d": ((0, "d"),)}


def optimizer(name: str, **arguments: object) -> Target:
    return Target(path=name, arguments=tuple(sorted(arguments.items())))  # type: ignore[arg-type]


class Slab:
    """One slab that two shards read, with gradients by use site."""

    def __init__(self, target: Target, precision: Precision = "fp32") -> None:
        kept = state_of(target, precision)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        trained = bundle(SHAPES, trained=True, dtype=dtype)
        layout = SlabLayout(
            name="0+1",
            readers=(0, 1),
            entries=trained.tensors,
            parameter_bytes=trained.size_bytes,
            trainable_bytes=trained.size_bytes,
            buffer_bytes=0,
        )
        self.parameters = self.region(trained.size_bytes, layout.entries)
        self.parameters.fill()
        size = kept.copies * trained.size_bytes
        self.state = self.region(size, state_layouts(layout, kept))
        self.gradients: dict[int, Region] = {}
        for shard in (0, 1):
            sites = bundle(
                {name: SHAPES[p] for p, uses in SITES.items() for s, name in uses if s == shard}, dtype=dtype
            )
            self.gradients[shard] = self.region(sites.size_bytes, sites.tensors)
        self.update = SlabUpdate(
            kernel=kernel_of(target, precision),
            slab=layout,
            state=kept,
            use_sites=SITES,
            parameters=self.parameters,
            optimizer=self.state,
            gradients=self.gradients,
            buffers=None,
        )

    def region(self, size: int, layouts: tuple[object, ...]) -> Region:
        return Region(view_on(pages(size)), 0, size, layouts)  # type: ignore[arg-type]

    def fill(self, gradients: Mapping[str, torch.Tensor]) -> None:
        for shard, region in self.gradients.items():
            store(
                region,
                {
                    name: gradients[name]
                    for uses in SITES.values()
                    for s, name in uses
                    if s == shard and name in gradients
                },
            )


OPTIMIZERS = [
    optimizer("SGD", lr=0.1),
    optimizer("SGD", lr=0.1, momentum=0.9),
    optimizer("SGD", lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    optimizer("SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    optimizer("SGD", lr=0.1, maximize=True),
    optimizer("Adam"),
    optimizer("Adam", lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    optimizer("Adam", amsgrad=True, maximize=True),
    optimizer("AdamW"),
    optimizer("AdamW", lr=0.01, betas=(0.8, 0.95), weight_decay=0.2, amsgrad=True),
]


@pytest.mark.parametrize("target", OPTIMIZERS, ids=lambda target: f"{target.path} {dict(target.arguments)}")
def test_bits_of_torch_optim(target: Target) -> None:
    torch.manual_seed(0)
    slab = Slab(target)
    expected = {name: torch.randn(shape).requires_grad_() for name, shape in SHAPES.items()}
    for name, value in expected.items():
        slab.parameters.tensors[name].copy_(value.detach())
    reference = getattr(torch.optim, target.path)(expected.values(), **dict(target.arguments), fused=True)
    for step in range(4):
        gradients = {name: torch.randn(SHAPES[p]) for p, uses in SITES.items() for _, name in uses}
        del gradients["c"]  # no gradient: torch.optim skips it, and so do we
        slab.fill(gradients)
        for name, value in expected.items():
            parts = [gradients[site] for _, site in SITES[name] if site in gradients]
            value.grad = sum(parts[1:], parts[0].clone()) if parts else None
        reference.step()
        with torch.no_grad():
            slab.update.apply(step)
        for name, value in expected.items():
            assert torch.equal(slab.parameters.tensors[name], value.detach()), name


@pytest.mark.parametrize("target", OPTIMIZERS, ids=lambda target: f"{target.path} {dict(target.arguments)}")
def test_bits_of_torch_optim_on_fp32_masters(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAST_ELEMENTS", 192)  # the largest parameter goes in several pieces
    torch.manual_seed(0)
    slab = Slab(target, "bf16")
    masters = {name: torch.randn(shape).requires_grad_() for name, shape in SHAPES.items()}
    for name, value in masters.items():
        slab.parameters.tensors[name].copy_(value.detach())
        slab.state.laid_out(f"master/{name}").copy_(value.detach())
    reference = getattr(torch.optim, target.path)(masters.values(), **dict(target.arguments), fused=True)
    for step in range(4):
        gradients = {name: torch.randn(SHAPES[p]).bfloat16() for p, uses in SITES.items() for _, name in uses}
        del gradients["c"]
        slab.fill(gradients)
        for name, value in masters.items():
            parts = [gradients[site] for _, site in SITES[name] if site in gradients]
            value.grad = sum(parts[1:], parts[0].clone()).float() if parts else None
        reference.step()
        with torch.no_grad():
            slab.update.apply(step)
        for name, value in masters.items():
            assert torch.equal(slab.state.laid_out(f"master/{name}"), value.detach()), name
            assert torch.equal(slab.parameters.tensors[name], value.detach().bfloat16()), name


@given(sizes=st.lists(st.integers(0, 700), max_size=6), most=st.integers(1, 4))
def test_pieces_hold_every_element_once_within_the_room(sizes: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CAST_ELEMENTS", most * module.PIECE_ELEMENTS)
        lists = list(pieces_of(sizes))
    covered: dict[int, int] = dict.fromkeys(range(len(sizes)), 0)
    for pieces in lists:
        used = 0
        for tensor, part, at in pieces:
            assert part.start == covered[tensor]
            assert part.start % module.PIECE_ELEMENTS == 0
            assert at == used
            covered[tensor] = part.stop
            used = at + -(-(part.stop - part.start) // module.PIECE_ELEMENTS) * module.PIECE_ELEMENTS
        assert used <= most * module.PIECE_ELEMENTS
    assert list(covered.values()) == sizes


def test_a_slab_without_any_gradient_is_left_alone() -> None:
    slab = Slab(optimizer("AdamW", weight_decay=0.5))
    slab.parameters.tensors["a"].fill_(1.0)
    slab.fill({})
    with torch.no_grad():
        slab.update.apply(0)
    assert (slab.parameters.tensors["a"] == 1.0).all()
    assert not slab.state.bytes.any()


def test_unknown_optimizers_and_arguments_are_refused() -> None:
    with pytest.raises(WorkloadError, match="'Lion'"):
        kernel_of(optimizer("Lion"))
    with pytest.raises(WorkloadError, match="takes no fused"):
        kernel_of(optimizer("AdamW", fused=False))
