"""Text that every Python installation holds: the standard library's source, as bytes in blocks."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

SKIPPED = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "lib2to3", "idlelib"}
"""Folders that installations leave out, or fill differently."""


class ByteBlocks:
    """Blocks of consecutive bytes for causal language models: each item predicts its own next bytes.

    Items are {"input_ids", "labels"}, both [block] int64 and equal: transformers' models shift labels themselves.
    """

    def __init__(self, content: bytes, block: int) -> None:
        blocks = len(content) // block
        self._tokens = torch.frombuffer(bytearray(content[: blocks * block]), dtype=torch.uint8).reshape(blocks, block)

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = self._tokens[index].long()
        return {"input_ids": tokens, "labels": tokens.clone()}


def python_source(block: int = 128, most_bytes: int = 4_000_000) -> ByteBlocks:
    """The standard library's own modules and packages, by path, up to `most_bytes`.

    Raises ValueError where the installation holds no source (some are shipped without), or a size makes no sense.
    """
    if block < 2 or most_bytes < block:
        raise ValueError(f"blocks of {block} bytes out of {most_bytes}: take at least 2, and at least one block")
    content = read_source(Path(sysconfig.get_path("stdlib")), most_bytes)
    if len(content) < block:
        raise ValueError(f"no source in {sysconfig.get_path('stdlib')}: this Python was installed without its library")
    return ByteBlocks(content, block)


def read_source(folder: Path, most_bytes: int) -> bytes:
    """All `.py` files of a folder and its packages in the order of their paths, cut off at `most_bytes`."""
    content = bytearray()
    for file in sorted(_sources(folder), key=lambda file: file.relative_to(folder).as_posix()):
        content += file.read_bytes()
        if len(content) >= most_bytes:
            break
    return bytes(content[:most_bytes])


def _sources(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = set(folders) - SKIPPED
        yield from (Path(parent, file) for file in files if file.endswith(".py"))
