"""The catalogue of processors."""

from __future__ import annotations

from hydraplan.planner.costs.catalogue import profiles


def test_names_are_what_a_workload_writes() -> None:
    assert all(
        name == profile.name and name == name.lower() and " " not in name for name, profile in profiles().items()
    )
    assert {"rtx-2080-ti", "a100-80gb", "h100", "server-cpu"} <= profiles().keys()


def test_figures_keep_their_order() -> None:
    known = profiles()
    assert known["t4"].flops_per_s < known["rtx-2080-ti"].flops_per_s < known["h100"].flops_per_s
    for profile in known.values():
        assert profile.copy_bytes_per_s < profile.bytes_per_s
        assert profile.bf16_flops_per_s is None or profile.bf16_flops_per_s > profile.flops_per_s
        assert (profile.functions_per_s is None) == (profile.name != "server-cpu")
