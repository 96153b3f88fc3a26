"""Work for several processes, a few jobs in flight at a time, so that nothing piles up."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Final, Protocol, Self, TypeVar

from scoutview.base.errors import RunError
from scoutview.base.processes import leave_interrupts_to_parent, process_pool

_LOG = logging.getLogger(__name__)

START_SECONDS: Final = 2.0
"""About twice what a pool needs to start: the imports of its first process."""

_PRELOAD: Final = ("__main__", "scoutview.index.scan")


class Divisible(Protocol):
    """A job that can be looked at in parts when its process dies."""

    def halves(self) -> Sequence[Self]:
        """Return jobs that together do the same; none if it cannot be divided."""


Job = TypeVar("Job", bound=Divisible)
Result = TypeVar("Result")


class Workers:
    """Processes that start when the work has shown to be worth it.

    Args:
        count: Processes; one means that all work is done in this process.
        patience: Seconds of work in this process before others are started.
    """

    def __init__(self, count: int, *, patience: float = START_SECONDS) -> None:
        self._count = count
        self._patience = patience
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def map(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield results as they come, in any order.

        Args:
            work: A module-level function.
            jobs: Taken lazily, at most two per process ahead. A job that ends its process is
                halved and tried again, down to the part that cannot be halved.

        Raises:
            RunError: A job that cannot be divided ended its process, or none starts.
        """
        flying: dict[Future[Result], Job] = {}
        for job in jobs:
            if self._pool is None and (self._count == 1 or self._patience > 0):
                start = time.monotonic()
                yield work(job)
                self._patience -= time.monotonic() - start
                continue
            self._submit(work, job, flying)
            if len(flying) >= 2 * self._count:
                yield from self._landed(work, flying)
        while flying:
            yield from self._landed(work, flying)

    def _submit(
        self, work: Callable[[Job], Result], job: Job, flying: dict[Future[Result], Job]
    ) -> None:
        if self._pool is None:
            self._pool = process_pool(
                self._count, initializer=leave_interrupts_to_parent, preload=_PRELOAD
            )
        try:
            flying[self._pool.submit(work, job)] = job
        except BrokenProcessPool as error:
            failed: Future[Result] = Future()
            failed.set_exception(error)
            flying[failed] = job

    def _landed(
        self, work: Callable[[Job], Result], flying: dict[Future[Result], Job]
    ) -> Iterator[Result]:
        """Yield the results of the jobs that have ended; redo those that a dead process took."""
        done, _ = wait(flying, return_when=FIRST_COMPLETED)
        for future in done:
            job = flying.pop(future)
            try:
                yield future.result()
            except BrokenProcessPool:
                self._stop()
                yield from _redone(work, job)

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _redone(work: Callable[[Job], Result], job: Job) -> Iterator[Result]:
    """Do a job in a process of its own; one that ends its process again is divided."""
    with process_pool(1, preload=_PRELOAD) as pool:
        future = pool.submit(work, job)
        wait([future])
    if not isinstance(future.exception(), BrokenProcessPool):
        yield future.result()
        return
    parts = job.halves()
    if not parts:
        raise RunError(
            "A worker process died twice in the same work, probably for want of memory; use fewer"
            " workers or more memory and run index again: it goes on where it stopped."
        )
    _LOG.warning("a process died while reading files; looking for the file that did it")
    for part in parts:
        yield from _redone(work, part)
