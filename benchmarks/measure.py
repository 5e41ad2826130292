"""How the benchmarks measure: two sides in turns, a ratio for each round, and the median of the ratios.

How busy the machine is affects both halves of a ratio, and so cancels out. A time alone would measure the machine.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.processes import cpu_of_services

RESULTS = Path(__file__).parent / "results"
RESULTS.mkdir(exist_ok=True)

Work = Callable[[Any], object]
Side = Callable[[], dict[str, float]]


def options(description: str | None, **numbers: int) -> argparse.ArgumentParser:
    """Return a parser of a benchmark's command line, with an option for each number and its default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser


def timed(workers: Sequence[Work], items: Sequence[Any]) -> dict[str, float]:
    """Spread the items over the workers, run the workers at once, and return what was measured.

    That is items per second, and in ms the latencies and the CPU time that an item costs the service.
    """

    def run(work: Work, share: Sequence[Any]) -> list[float]:
        times = []
        for item in share:
            began = time.perf_counter()
            work(item)
            times.append((time.perf_counter() - began) * 1000)
        return times

    shares = [items[number :: len(workers)] for number in range(len(workers))]
    with ThreadPoolExecutor(len(workers)) as pool:
        began, cpu_seconds = time.perf_counter(), cpu_of_services()
        latencies = sorted(chain.from_iterable(pool.map(run, workers, shares)))
        seconds, cpu_seconds = time.perf_counter() - began, cpu_of_services() - cpu_seconds
    return {
        "per_second": len(items) / seconds,
        "p50_ms": statistics.median(latencies),
        "p99_ms": latencies[int(len(latencies) * 0.99)],
        "cpu_ms": cpu_seconds / len(items) * 1000,
    }


def interleave(sides: Mapping[str, Side], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Run the sides in turns, the order reversed in every other round. The first round warms up and is not counted."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(-1, rounds):
        for name in list(sides) if number % 2 else reversed(list(sides)):
            result = sides[name]()
            if number >= 0:
                results[name].append(result)
    return results


def medians(results: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure over the rounds."""
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


def ratio(results: dict[str, list[dict[str, float]]], side: str, base: str, figure: str = "per_second") -> float:
    """Return the median over the rounds of one side's figure divided by the base side's."""
    pairs = zip(results[side], results[base], strict=True)
    return statistics.median(numerator[figure] / denominator[figure] for numerator, denominator in pairs)


def keep(name: str, result: Any) -> None:
    """Write a result to benchmarks/results/<name>.json."""
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
