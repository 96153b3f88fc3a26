"""Worker processes that are known to start."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from scoutview.base.errors import RunError


def process_pool(
    count: int, *, initializer: Callable[[], object] | None = None, preload: Sequence[str] = ()
) -> ProcessPoolExecutor:
    """Return processes that never come from a fork, because the caller may run threads.

    Args:
        count: Processes.
        initializer: Called once in every process.
        preload: Modules imported once for all processes, where the system can do that.

    Raises:
        RunError: No process starts; most often the caller is a script without a main guard, which
            every process would run again.
    """
    pool = ProcessPoolExecutor(count, mp_context=_context(preload), initializer=initializer)
    try:
        first, *_ = [pool.submit(_started) for _ in range(count)]
        first.result()
    except BrokenProcessPool as error:
        pool.shutdown(cancel_futures=True)
        raise RunError(
            "Worker processes end while they start. In a script, put what it does under"
            ' `if __name__ == "__main__":`, because each of them imports the script; it must be a'
            " file, not standard input. Or use one worker."
        ) from error
    return pool


def _context(preload: Sequence[str]) -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context: Any = multiprocessing.get_context("forkserver")
    if preload:
        context.set_forkserver_preload(list(preload))
    return context


def _started() -> None:
    """Do nothing, in a process that is there."""


def leave_interrupts_to_parent() -> None:
    """Let Ctrl-C reach the process that gives out the work alone; an `initializer`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
