"""Two processes that train together over gloo, for tests: started once, then told what to do.

They are forks of a server that has imported what is heavy, so that each costs little.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from attrs import frozen

PRELOADED = ["srum_core.training.trainer", "srum_losses.objectives", "srum_losses.maps", "numpy", "pytest", "tomli_w"]
WAIT = 300.0
"""Seconds until a step that a process waits in counts as hung."""


def server() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@frozen
class Pair:
    """The processes of ranks 0 and 1."""

    pipes: Sequence[Connection]

    def do(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Both call `work(*given)`; what they return. Fails if one raises, or if they wait for each other for ever."""
        for pipe in self.pipes:
            pipe.send((work, arguments))
        results = []
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(WAIT), f"process {rank} hangs in {work.__name__}{arguments}"
            wrong, result = pipe.recv()
            assert not wrong, f"process {rank}: {wrong}"
            results.append(result)
        return results


@contextmanager
def started(folder: Path) -> Iterator[Pair]:
    """The pair; `folder` is where the two find each other."""
    context = server()
    ends = [context.Pipe() for _ in range(2)]
    workers = [context.Process(target=serve, args=(rank, end, folder)) for rank, (_, end) in enumerate(ends)]
    for worker in workers:
        worker.start()
    try:
        yield Pair([mine for mine, _ in ends])
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def alone(rank: int, work: Callable[..., Any], *arguments: Any, **variables: str) -> ForkServerProcess:
    """A process of its own that is rank 0 or 1 of 2 but meets nobody, with these variables; already running."""
    worker = server().Process(target=run_alone, args=(rank, variables, work, arguments))
    worker.start()
    return worker


# ---- in the processes ------------------------------------------------------------------------------------------------


def serve(rank: int, pipe: Connection, folder: Path) -> None:
    import torch

    become(rank)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    while True:
        work, arguments = pipe.recv()
        try:
            pipe.send(("", work(*arguments)))
        except BaseException:
            pipe.send((traceback.format_exc(), None))


def run_alone(rank: int, variables: dict[str, str], work: Callable[..., Any], arguments: Sequence[Any]) -> None:
    become(rank)
    os.environ.update(variables)
    work(*arguments)


def become(rank: int) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
