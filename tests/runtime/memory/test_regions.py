"""Regions: values keep their strides, bytes move whole, absent gradients stay absent."""

from __future__ import annotations

import pytest
import torch
from support.chain import bundle

from hydraplan.plans.language.errors import RunError
from hydraplan.runtime.devices.cpu import pages
from hydraplan.runtime.memory.regions import Region, add, store
from hydraplan.runtime.memory.store import view_on


def region(**shapes: tuple[int, ...]) -> Region:
    layout = bundle(shapes)
    return Region(view_on(pages(layout.size_bytes)), 0, layout.size_bytes, layout.tensors)


def values() -> dict[str, torch.Tensor]:
    base = torch.arange(60.0).reshape(3, 4, 5)
    return {
        "contiguous": base.contiguous(),
        "transposed": base.reshape(4, 3, 5).transpose(0, 1),
        "expanded": torch.arange(3.0).reshape(3, 1, 1).expand(3, 4, 5),
        "channels last": base.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    }


@pytest.mark.parametrize("kind", list(values()))
def test_a_value_keeps_its_strides_across_a_copy(kind: str) -> None:
    value = values()[kind]
    here, there = region(v=(3, 4, 5)), region(v=(3, 4, 5))
    here.put("v", value)
    there.bytes.copy_(here.bytes)
    there.adopt(here)
    assert torch.equal(there.tensors["v"], value)
    assert there.tensors["v"].stride() == value.stride()


def test_a_value_with_gaps_fits_where_room_is_reserved() -> None:
    gaps = torch.randn(3, 9)[:, :5]
    place = region(v=(3, 5))
    place.put("v", gaps)
    assert place.tensors["v"].stride() == (9, 1)
    assert torch.equal(place.tensors["v"], gaps)


def test_a_value_that_spans_more_than_is_reserved_is_refused() -> None:
    with pytest.raises(RunError, match=r"value v came with strides \(1000, 1\) and spans 12020 bytes"):
        region(v=(4, 5)).put("v", torch.zeros(4, 1000)[:, :5])


def test_gradients_add_up_and_absent_ones_stay_absent() -> None:
    place = region(a=(2,), b=(3,), c=(1,))
    store(place, {"a": torch.ones(2)})
    add(place, {"a": torch.ones(2), "b": torch.ones(3)})
    add(place, {"a": torch.ones(2), "b": torch.ones(3)})
    assert {name: value.tolist() for name, value in place.tensors.items()} == {"a": [3.0, 3.0], "b": [2.0] * 3}
    store(place, {"c": torch.ones(1)})
    assert set(place.tensors) == {"c"}
