"""Bytes of all tensors that live at a time, on any device: what the estimates of `gd_core.memory` are held to."""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors alive that were made inside, and their peak."""

    def __init__(self, *ignored: torch.nn.Module):
        super().__init__()
        self.now = self.peak = 0
        self.known = {t.untyped_storage()._cdata for module in ignored for t in module.parameters()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.known:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage):
        address, size = storage._cdata, storage.nbytes()

        def freed():
            self.now -= size
            self.known.discard(address)

        self.known.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, freed)
