"""Reports the result of a campaign: a table to read, and a file for docs/reliability.md to quote."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.soak.checker import Violation
from tests.soak.record import Record
from tests.soak.schedule import Window

SLOWEST = 20
"""How many of the slowest requests the file lists, so that a reader can find what they waited for."""

RESULTS = Path(os.environ.get("SOAK_RESULTS", "build/soak"))


def summarize(
    name: str,
    records: Sequence[Record],
    violations: Sequence[Violation],
    windows: Sequence[Window] = (),
    **extra: Any,
) -> dict[str, Any]:
    """Write the file, and return the summary in it."""
    durations_in_faults = [
        record.took for record in records if any(window.began <= record.began <= window.ended for window in windows)
    ]
    answers = Counter(f"{record.kind} {record.status} {record.code}".strip() for record in records)
    summary = {
        "campaign": name,
        **extra,
        "faults": dict(Counter(window.fault.kind for window in windows)),
        "new_primary_after_s": _spread([window.primary_after for window in windows]),
        "requests": len(records),
        "answers": dict(sorted(answers.items())),
        "all_requests_s": _spread([record.took for record in records]),
        "requests_begun_in_faults": len(durations_in_faults),
        "requests_begun_in_faults_s": _spread(durations_in_faults),
        "violations": dict(Counter(violation.kind for violation in violations)),
    }
    slowest = sorted(records, key=lambda record: -record.took)[:SLOWEST]
    details = {
        "details": [" ".join(violation) for violation in violations],
        "slowest": [_describe(record, windows) for record in slowest],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**summary, **details}, indent=2) + "\n")
    return summary


def table(summary: dict[str, Any], violations: Sequence[Violation]) -> str:
    """Return the summary as lines to print, with the first violations."""
    lines = [f"  {name:28} {_short(value)}" for name, value in summary.items()]
    lines += [f"  ! {violation.kind}: {violation.chat_id} {violation.detail}" for violation in violations[:20]]
    return "\n".join(lines)


def _describe(record: Record, windows: Sequence[Window]) -> str:
    earlier = [window for window in windows if window.began <= record.ended]
    suffix = f", begun {record.began - earlier[-1].began:.2f} s after a {earlier[-1].fault.kind}" if earlier else ""
    return f"{record.took:.2f} s: {record.operation}, {record.status} {record.code}{suffix}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {inner}" for key, inner in value.items()) or "none"
    return str(value)


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the largest, in seconds."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {
        "p50": round(ordered[len(ordered) // 2], 3),
        "p99": round(ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)], 3),
        "max": round(ordered[-1], 3),
    }
