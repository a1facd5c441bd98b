"""Sizes, rates and times as people write and read them: `11GiB`, `12 GB/s`, `8 m 12 s`.

Inside there are only whole numbers of bytes, bytes per second and microseconds; text is read once, at the
border, and written once, in messages and tables.
"""

from __future__ import annotations

import re
from decimal import Decimal

DECIMAL = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BINARY = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
BITS = {"KBIT": 10**3, "MBIT": 10**6, "GBIT": 10**9}
"""Network and bus rates are often given in bits; sizes never are."""

LONGEST = 60
"""Characters of a quantity."""
_QUANTITY = re.compile(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def parse_bytes(text: str) -> int:
    """Bytes of a size such as `512 MiB`, `1.5GB` or `800 B`. Raises ValueError, which says what is right."""
    number, unit = _split(text, "write a size with its unit, such as 11GiB or 512 MB")
    factor = (DECIMAL | BINARY).get(unit.upper())
    if factor is None:
        raise ValueError(f"{text!r} has no unit of size: write one of B, KB, MB, GB, TB, KiB, MiB, GiB, TiB")
    return _whole(number * factor, text)


def parse_rate(text: str) -> int:
    """Bytes per second of a rate such as `12GB/s` or `100 Gbit/s`. Raises ValueError, which says what is right."""
    amount, slash, second = text.rpartition("/")
    if not slash or second.strip() != "s":
        raise ValueError(f"{text!r} is not a rate: write bytes per second, such as 12GB/s")
    number, unit = _split(amount, "write a rate with its unit, such as 12GB/s")
    if unit.upper() in BITS:
        return _whole(number * BITS[unit.upper()] / 8, text)
    factor = (DECIMAL | BINARY).get(unit.upper())
    if factor is None:
        raise ValueError(f"{text!r} has no unit of a rate: write one of MB/s, GB/s, MiB/s, GiB/s, Gbit/s")
    return _whole(number * factor, text)


def _split(text: str, advice: str) -> tuple[Decimal, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None or len(text) > LONGEST:
        raise ValueError(f"{text[:LONGEST]!r}: {advice}")
    return Decimal(match[1].replace("_", "")), match[2]


def _whole(value: Decimal, text: str) -> int:
    if value < 1:
        raise ValueError(f"{text!r} is less than one byte")
    return int(value)


def format_bytes(count: int) -> str:
    """`10.6 GiB`, `768.0 KiB`, `12 B`: three to four figures in the largest binary unit that fits."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def format_rate(bytes_per_s: int) -> str:
    """`12.0 GB/s`: rates are decimal by custom."""
    for unit, factor in (("TB/s", 10**12), ("GB/s", 10**9), ("MB/s", 10**6), ("KB/s", 10**3)):
        if bytes_per_s >= factor:
            return f"{bytes_per_s / factor:.1f} {unit}"
    return f"{bytes_per_s} B/s"


def format_duration(duration_us: int) -> str:
    """`3 h 05 m`, `8 m 12 s`, `12.3 s`, `45.1 ms`, `80 us`."""
    seconds = round(duration_us / 1e6)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} m"
    if seconds >= 60:
        return f"{seconds // 60} m {seconds % 60:02d} s"
    if duration_us >= 1_000_000:
        return f"{duration_us / 1e6:.1f} s"
    if duration_us >= 1_000:
        return f"{duration_us / 1e3:.1f} ms"
    return f"{duration_us} us"


def format_percent(fraction: float) -> str:
    """`2.1 %`."""
    return f"{100 * fraction:.1f} %"


def format_count(number: int, noun: str) -> str:
    """`1 job`, `4 jobs`, `2 phases`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
