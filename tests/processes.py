"""Process tests: kill a writer inside every file operation; run ranks under one forkserver."""

import functools
import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable
from typing import Any

_OPERATIONS = ("open", "write", "fsync", "replace", "mkdir", "unlink", "rename", "truncate")


def kill_everywhere(
    work: Callable[[], object],
    check: Callable[[int], object],
    *,
    skip: Callable[[tuple[Any, ...]], bool] = lambda arguments: False,
    stride: int = 1,
) -> int:
    """Run `work` in forked children; child n dies by SIGKILL inside its n-th file operation.

    A killed write has written half of its bytes. Only operations called through `os` count.

    Args:
        work: What writes. Called in the child; must not need threads of the parent.
        check: Called in the parent after each death with n; raises if what is left looks whole.
        skip: Operations (their arguments) that do not count.
        stride: Kill at every stride-th operation only.

    Returns:
        The number of deaths; `work` then survived once.
    """
    for n in range(1, 100_000, stride):
        pid = os.fork()
        if pid == 0:
            _die_at(n, skip)
            try:
                work()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the writer failed by itself; see the traceback"
            return (n - 1) // stride
        assert os.WTERMSIG(status) == signal.SIGKILL
        check(n)
    raise AssertionError("the writer never finished")


def _die_at(n: int, skip: Callable[[tuple[Any, ...]], bool]) -> None:
    count = 0

    def wrap(name: str) -> None:
        original = getattr(os, name)

        def operation(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if not skip(arguments):
                count += 1
                if count == n:
                    if name == "write":
                        original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(os, name, operation)

    for name in _OPERATIONS:
        wrap(name)


def run_ranks(work: Callable[..., Any], world: int, *arguments: Any) -> list[Any]:
    """Call `work(*arguments)` in `world` processes of one gloo group, which stay for the next call.

    Args:
        work: A module-level function; its result must pickle.
        world: Number of processes.
        arguments: Passed on.

    Returns:
        The results by rank.
    """
    pool = _ranks(world)
    jobs = [pool.apply_async(_called, (work, arguments)) for _ in range(world)]
    try:
        return [result for _, result in sorted((job.get(timeout=240) for job in jobs), key=_rank)]
    except BaseException:  # the others may wait in a collective for ever
        pool.terminate()
        _ranks.cache_clear()
        raise


@functools.cache
def _ranks(world: int) -> Any:
    context = multiprocessing.get_context("forkserver")
    ranks = context.SimpleQueue()
    for rank in range(world):
        ranks.put(rank)
    return context.Pool(world, _join_group, (ranks, world, _free_port()))


def _join_group(ranks: Any, world: int, port: int) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    place = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=place, rank=ranks.get(), world_size=world)


def _called(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[int, Any]:
    import torch.distributed as dist

    dist.barrier()  # so that no process takes two of the calls
    return dist.get_rank(), work(*arguments)


def _rank(result: tuple[int, Any]) -> int:
    return result[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
