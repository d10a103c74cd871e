"""Appending, reopening, resuming and reading many records: `python benchmarks/speed/store.py --records 100000`.

Judgements of ten regions with reasons, about 3 KB each, appended in chunks as a stage does. One JSON line a step: its
seconds, and the process's resident memory at most so far.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from srum_core.records import Judgement, Region, Score
from srum_core.runs.store import Records


def judgements(numbers: range) -> Iterator[Judgement]:
    regions = tuple(Region(str(i), (i / 20, 0.1, i / 20 + 0.3, 0.6), "an object") for i in range(10))
    scores = (Score(0.5, reason="fine " * 10), *(Score(i / 10, str(i), "some reason " * 6) for i in range(10)))
    return (Judgement(f"{number:020}", regions, scores) for number in numbers)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--chunk", type=int, default=8)
    options = parser.parse_args(arguments)
    count, chunk = options.records, options.chunk

    def opened() -> Records[Judgement]:
        return Records(Path(folder) / "round-1" / "judgements", Judgement, {"a": 1})

    def append(records: Records[Judgement], start: int, end: int) -> None:
        for first in range(start, end, chunk):
            records.extend(judgements(range(first, min(first + chunk, end))))

    def tell(step: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        seconds, most = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"step": step, "seconds": round(seconds, 3), "mib": round(most, 1)}), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        tell("append the first tenth", lambda: append(opened(), 0, count // 10))
        tell("reopen, append the rest", lambda: append(opened(), count // 10, count))
        again = opened()
        tell("reopen, count", lambda: len(again))
        tell("append one more chunk", lambda: append(again, count, count + chunk))
        tell("read every tenth", lambda: sum(1 for _ in again.select(f"{i:020}" for i in range(0, count, 10))))
        tell("read all", lambda: sum(1 for _ in again))
        size = sum(path.stat().st_size for path in again.folder.glob("part-*"))
        print(json.dumps({"records": len(again), "megabytes": round(size / 1e6, 1)}))


if __name__ == "__main__":
    main()
