"""Digests of what a cache depends on: tensors, modules, files."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

_BLOCK = 1 << 20  # bytes digested at a time by one thread
_TORCH = ("torch.", "torchvision.")
_REMEMBERED = 1 << 26  # bytes of a tensor from which its digest is remembered while it lives
_known: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tensor -> (its version, digest)


def digest_tensor(data: Tensor) -> str:
    """Return a digest of a tensor's dtype, shape and bytes, as ``dtype:hex``: the SHA-256 of its blocks' SHA-256.

    Blocks are digested in parallel, which halves the time on two cores and more on more. A large tensor that is asked
    for again, unchanged since, is not read again: at a start the same pixels are checked by several parts.
    """
    large = data.numel() * data.element_size() >= _REMEMBERED and not data.is_inference()
    if large and data in _known and _known[data][0] == data._version:
        return str(_known[data][1])
    digest = _digest(data)
    if large:
        _known[data] = (data._version, digest)
    return digest


def _digest(data: Tensor) -> str:
    kind = str(data.dtype).removeprefix("torch.")
    rows = data.detach()[None] if data.ndim == 0 else data.detach()
    step = max(1, _BLOCK * len(rows) // max(1, rows.numel() * rows.element_size()))

    def digest(start: int) -> bytes:
        block = rows[start : start + step].cpu().contiguous()
        return hashlib.sha256(block.reshape(-1).view(torch.uint8).numpy().data).digest()

    sha = hashlib.sha256(f"{kind} {list(data.shape)}".encode())
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for part in pool.map(digest, range(0, len(rows), step)):
            sha.update(part)
    return f"{kind}:{sha.hexdigest()}"


def digest_module(module: nn.Module | None) -> str:
    """Return the SHA-256 of a module: classes and their source, settings, and all parameters and buffers.

    Settings are the attributes of every submodule that are plain values. Not seen: functions defined outside the
    module's classes, and settings held in objects.
    """
    if module is None:
        return "none"
    sha = hashlib.sha256()
    sources = set()
    for path, part in module.named_modules():
        kind = type(part)
        # Whether it is training now does not count: features are always taken in evaluation mode.
        plain = {name: repr(value) for name, value in sorted(vars(part).items()) if _is_plain(value)}
        plain.pop("training", None)
        sha.update(json.dumps([path, kind.__module__, kind.__qualname__, part.extra_repr(), plain]).encode())
        if not kind.__module__.startswith(_TORCH):
            sources.add(kind)
    for kind in sorted(sources, key=lambda kind: (kind.__module__, kind.__qualname__)):
        try:
            sha.update(inspect.getsource(kind).encode())
        except (OSError, TypeError):  # typed at a prompt: there is no source to read
            continue
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        sha.update(f"{name} {digest_tensor(tensor)}".encode())
    return sha.hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes))
