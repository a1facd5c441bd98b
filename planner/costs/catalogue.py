"""Well-known processors, for planning without them. Derived from data sheets, not measured by us.

The project's machines have held no GPU: a plan made from these figures is right about memory, and about
time as far as the derivation goes. Measure (`hydraplan profile`) where times matter.

    peak        float32 without tensor cores, from the vendor's data sheet of the card (boost clock).
                Training in plain fp32 uses nothing faster: torch leaves TF32 off for matrix products.
    bf16        dense bf16 on tensor cores that add up in float32, from the same data sheet; cards before Ampere
                have none, and are taken to be as fast as in float32
    memory      bandwidth of the data sheet
    bus         PCI Express generation of the card, 16 lanes (8 on none of these)

and from them

    flops_per_s         75 % of peak: what cuBLAS SGEMM usually reaches for matrices of 1,024 and more
    bf16_flops_per_s    60 % of bf16: tensor cores wait for memory sooner
    bytes_per_s         80 % of memory bandwidth: what STREAM-like kernels usually reach
    node_ns             5 us for Python, dispatch and launch of an eager operator
    copy_bytes_per_s    12 GB/s for PCIe 3.0 x16, 25 GB/s for 4.0, 50 GB/s for 5.0: pinned copies,
                        some 80 % of the bus's 15.75, 31.5 and 63 GB/s
    update_bytes_per_s  70 % of memory bandwidth

The host entry is a server with eight channels of DDR4-3200 (204.8 GB/s): torch's fused CPU optimizers are
bound by memory; half of the bandwidth is left to copies and to the other jobs.
"""

from __future__ import annotations

import re

from hydraplan.plans.language.workload import Profile

GIGA = 10**9
TERA = 10**12
EAGER_NODE_NS = 5_000
COPY_RATE = {3: 12 * GIGA, 4: 25 * GIGA, 5: 50 * GIGA}
"""PCI Express generation -> bytes per second of a pinned copy over 16 lanes."""


def _gpu(name: str, peak_tera: float, bf16_tera: float | None, memory_giga: float, generation: int) -> Profile:
    return Profile(
        name=name,
        flops_per_s=round(0.75 * peak_tera * TERA),
        bf16_flops_per_s=None if bf16_tera is None else round(0.60 * bf16_tera * TERA),
        bytes_per_s=round(0.80 * memory_giga * GIGA),
        node_ns=EAGER_NODE_NS,
        copy_bytes_per_s=COPY_RATE[generation],
        update_bytes_per_s=round(0.70 * memory_giga * GIGA),
    )


_PROFILES = (
    _gpu("rtx-2080-ti", 13.45, None, 616, 3),
    _gpu("rtx-3090", 35.6, 71.0, 936, 4),
    _gpu("rtx-4090", 82.6, 165.2, 1008, 4),
    _gpu("rtx-a6000", 38.7, 154.8, 768, 4),
    _gpu("t4", 8.1, None, 320, 3),
    _gpu("l4", 30.3, 121.0, 300, 4),
    _gpu("v100", 15.7, None, 900, 3),
    _gpu("a10", 31.2, 125.0, 600, 4),
    _gpu("a100-40gb", 19.5, 312.0, 1555, 4),
    _gpu("a100-80gb", 19.5, 312.0, 2039, 4),
    _gpu("h100", 67.0, 989.4, 3350, 5),
    _gpu("h200", 67.0, 989.4, 4800, 5),
    Profile(
        name="server-cpu",
        flops_per_s=60 * GIGA,
        bytes_per_s=15 * GIGA,
        node_ns=8_000,
        copy_bytes_per_s=12 * GIGA,
        update_bytes_per_s=100 * GIGA,
        functions_per_s=250_000_000,
    ),
)
"""`server-cpu`'s compute figures are of one thread; its update figure is of the whole host."""


_CARDS = {
    r"GeForce RTX 2080 Ti": "rtx-2080-ti",
    r"GeForce RTX 3090": "rtx-3090",
    r"GeForce RTX 4090": "rtx-4090",
    r"RTX A6000": "rtx-a6000",
    r"T4": "t4",
    r"L4": "l4",
    r"V100-SXM[23](-(16|32)GB)?(-LS)?": "v100",
    r"A10": "a10",
    r"A100-(SXM4|PCIE)-40GB": "a100-40gb",
    r"A100(-SXM4-80GB| 80GB PCIe| 80GB)": "a100-80gb",
    r"H100( 80GB HBM3|-SXM5-80GB)?": "h100",
    r"H200": "h200",
}
"""What a driver calls a card, without the vendor -> its profile. Cards of like names (A10G, RTX 3090 Ti, H100 PCIe,
parts for laptops) are slower or faster, and are in no entry."""
_VENDORS = ("NVIDIA ", "Tesla ")


def name_of_card(card: str) -> str | None:
    """The profile of a GPU, by the name that its driver gives it; None: there is none."""
    for vendor in _VENDORS:
        card = card.removeprefix(vendor)
    return next((name for pattern, name in _CARDS.items() if re.fullmatch(pattern, card)), None)


def profiles() -> dict[str, Profile]:
    """Name -> profile."""
    return {profile.name: profile for profile in _PROFILES}
