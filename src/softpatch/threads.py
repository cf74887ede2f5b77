"""Threads to share work out among, where torch dividing every step of it would cost more than it gives."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_is_used = _is_stranded = False


def one_ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The items, none of them None, each made in another thread while the one before it is in use."""
    with ThreadPoolExecutor(1, "softpatch-ahead") as pool:
        upcoming = pool.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item


def single_threaded_workers() -> ThreadPoolExecutor:
    """As many workers as torch has threads, in each of which torch uses one. They are kept, and are for all who ask.

    What they do must not wait for others of them.
    """
    return _workers(torch.get_num_threads())


@cache  # to start them takes a fifth of the time of one image's search
def _workers(count: int) -> ThreadPoolExecutor:
    pool, all_begun = ThreadPoolExecutor(count, "softpatch"), Barrier(count)

    def begin() -> None:
        torch.get_num_threads()  # else the number for threads yet to begin replaces this one at the first operation
        all_begun.wait()
        torch.set_num_threads(1)

    for begun in [pool.submit(begin) for _ in range(count)]:
        begun.result()
    torch.set_num_threads(count)  # a worker's number is also that of threads yet to begin
    return pool


def begin_computing() -> bool:
    """Note that networks run in this process; False where they cannot, as they ran in one that it was forked from.

    OpenMP would wait for threads that ended with the fork, at some operations for ever.
    """
    global _is_used
    _is_used = True
    return not _is_stranded


def _begin_forked() -> None:
    """A forked process has none of the threads."""
    global _is_stranded
    _is_stranded = _is_used
    _workers.cache_clear()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_forked)
