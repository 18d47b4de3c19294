"""A few threads over many items, stopped by the first failure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def run_parallel(items: Iterable[T], work: Callable[[T], None], workers: int) -> None:
    """Call `work` for every item, `workers` at a time; items are taken as they are needed.

    The first exception stops the taking and is raised here once the running calls have ended. An
    interrupt (Ctrl-C) is raised at once: the threads are daemons and end with the process.
    """
    source = iter(items)
    lock = threading.Lock()
    failures: list[BaseException] = []
    stopped = threading.Event()

    def loop() -> None:
        while not stopped.is_set():
            try:
                with lock:
                    if stopped.is_set():
                        return
                    item = next(source)
            except StopIteration:
                return
            except Exception as error:  # the iterator is the caller's: its failure is the caller's
                failures.append(error)
                stopped.set()
                return
            try:
                work(item)
            except Exception as error:  # re-raised below, in the caller's thread
                failures.append(error)
                stopped.set()
                return

    threads = [threading.Thread(target=loop, name=f"dfs-worker-{n}", daemon=True) for n in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stopped.set()
    if failures:
        raise failures[0]
