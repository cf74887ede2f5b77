"""Threads to share work out among, where torch dividing every step of it would cost more than it gives."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier

import torch


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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)  # a forked process has none of the threads
