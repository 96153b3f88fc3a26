"""Work for several processes, a few jobs in flight at a time, so that nothing piles up."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Self, TypeVar

from scoutview.base.errors import RunError

Job = TypeVar("Job")
Result = TypeVar("Result")


class Workers:
    """A pool that starts with its first real load: one or two jobs run in this process."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield results as they come, in any order.

        Args:
            work: A module-level function.
            jobs: Taken lazily, at most two per process ahead.

        Raises:
            RunError: A process died.
        """
        remaining = iter(jobs)
        first = list(islice(remaining, 3))
        if self._count == 1 or (len(first) < 3 and self._pool is None):
            yield from map(work, chain(first, remaining))
            return
        try:
            yield from self._spread(work, chain(first, remaining))
        except BrokenProcessPool as error:
            raise RunError(
                "A worker process died, killed by the system or by a crash inside a decoder; give"
                " it more memory or fewer workers and run index again: it goes on where it stopped."
            ) from error

    def _spread(self, work: Callable[[Job], Result], jobs: Iterator[Job]) -> Iterator[Result]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._count, mp_context=_context())
        flying: set[Future[Result]] = set()
        for job in jobs:
            flying.add(self._pool.submit(work, job))
            if len(flying) >= 2 * self._count:
                done, flying = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        while flying:
            done, flying = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def _context() -> multiprocessing.context.BaseContext:
    # Never fork: the caller may run threads of torch or OpenCV.
    known = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
