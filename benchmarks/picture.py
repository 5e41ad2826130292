"""Draws benchmarks/delete.svg from the latest results of benchmarks/delete.py."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

FOLDER = Path(__file__).parent
COLORS = {"raw": "#9aa5b1", "ours": "#0b6e4f", "FastAPI": "#e0a458", "Eve": "#c8553d"}
NAMES = {"raw": "bare pymongo, the same five commands", "Eve": "Eve (not atomic)"}
WIDTH = 0.2


def draw(cases: list[dict[str, Any]]) -> None:
    """Draw how many chats a second each side deletes, and how long the slowest hundredth takes."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "delete", "font.size": 10})
    figure, (speed, latency) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for index, (name, color) in enumerate(COLORS.items()):
        positions = [number + (index - 1.5) * WIDTH for number in range(len(cases))]
        bars = speed.bar(
            positions, [case[name]["over_floor"] for case in cases], WIDTH, color=color, label=NAMES.get(name, name)
        )
        speed.bar_label(bars, fmt="%.2f", fontsize=7)
        bars = latency.bar(positions, [case[name]["p99_ms"] for case in cases], WIDTH, color=color)
        latency.bar_label(bars, fmt="%.0f", fontsize=7)
    speed.axhline(1, color="#333333", linewidth=0.8)
    speed.set_title("Chats deleted a second; 1 is bare pymongo\nwithout presence and receipts", fontsize=10)
    latency.set_title("p99 in ms, on a logarithmic scale", fontsize=10)
    latency.set_yscale("log")
    for axes in (speed, latency):
        axes.set_xticks(range(len(cases)), [_label(case["raw"]) for case in cases])
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(COLORS), frameon=False)
    figure.savefig(FOLDER / "delete.svg", metadata={"Date": None})


def _label(side: dict[str, Any]) -> str:
    clients = f"{side['clients']} client" + "s" * (side["clients"] > 1)
    return f"{clients}\n{side['messages']:,} messages"


if __name__ == "__main__":
    draw(json.loads((FOLDER / "results" / "delete.json").read_text()))
