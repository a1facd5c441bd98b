"""Sizes, rates and times: read strictly, written shortly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydraplan.plans.language.quantities import (
    format_bytes,
    format_duration,
    format_percent,
    format_rate,
    parse_bytes,
    parse_rate,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("11GiB", 11 * 2**30),
        ("512 MiB", 512 * 2**20),
        ("1.5GB", 1_500_000_000),
        ("8 gib", 8 * 2**30),
        (" 1_000 B ", 1000),
        ("0.1KB", 100),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["", "11", "GiB", "11 G", "-1GiB", "11GiB/s", "1e3MB", "0GiB", "1..5GB", "8 GiB x", "8Gbit"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|less than one byte"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "rate"), [("12GB/s", 12 * 10**9), ("1.5 GiB / s", 3 * 2**29), ("100Gbit/s", 12_500_000_000)]
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["12GB", "12GB/h", "GB/s", "12 /s", "12 ops/s"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_rate(text)


@given(st.integers(min_value=1, max_value=2**50))
def test_a_written_size_reads_back_within_its_last_figure(count: int) -> None:
    assert abs(parse_bytes(format_bytes(count)) - count) <= 0.05 / 1 * 2 ** (10 * ((count.bit_length() - 1) // 10)) + 1


def test_what_people_read() -> None:
    assert format_bytes(11 * 2**30) == "11.0 GiB"
    assert format_bytes(100) == "100 B"
    assert format_rate(12 * 10**9) == "12.0 GB/s"
    assert format_rate(5) == "5 B/s"
    durations = [492_000_000, 12_345_678, 45_100, 80, 11_100_000_000, 59_990_000]
    assert [format_duration(duration) for duration in durations] == [
        "8 m 12 s",
        "12.3 s",
        "45.1 ms",
        "80 us",
        "3 h 05 m",
        "1 m 00 s",
    ]
    assert format_percent(0.0213) == "2.1 %"
