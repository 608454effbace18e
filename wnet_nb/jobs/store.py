"""Arrays that are made once and found again, without holding more of them than memory bears."""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class Store:
    """Keeps the newest value, older ones up to a size, and finds others while somebody uses them.

    Parameters
    ----------
    limit : int
        Size, in bytes, up to which older values are kept.
    largest : float
        Size of a value, in bytes, from which it is never kept.
    """

    def __init__(self, limit: int, largest: float = math.inf) -> None:
        self._limit, self._largest, self._lock = limit, largest, threading.RLock()
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._in_use: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()

    def get(self, key: Hashable, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """Return what belongs to a key, made if it is not there; two threads never make it both."""
        with self._lock:
            value = self._in_use.get(key)
            if value is None:
                value = make()
            self._in_use[key] = value
            if size(value) >= self._largest:
                return value
            self._kept[key] = value, size(value)
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(n for _, n in self._kept.values()) > self._limit:
                self._kept.popitem(last=False)
            return value
