"""Counts the bytes of the tensors alive while a program runs."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """The most bytes of storages that were made inside and alive at once, after any one operator.

    Attributes:
        peak: these bytes so far.
        largest: bytes of the largest storages made, largest first.
    """

    def __init__(self):
        super().__init__()
        self.peak = 0
        self.largest = []
        self._alive = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operator, then count."""
        given = {self._key(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and self._key(x) not in given:
                storage = x.untyped_storage()
                self._alive[self._key(x)] = StorageWeakRef(storage), storage.nbytes()
                self.largest = sorted([*self.largest, storage.nbytes()])[:-4:-1]
        self._alive = {key: held for key, held in self._alive.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return out

    @staticmethod
    def _key(x):
        return x.untyped_storage()._cdata
