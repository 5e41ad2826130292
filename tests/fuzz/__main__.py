"""Run all targets in turn, or with a name that one: `python -m tests.fuzz [target]`, FUZZ_SECONDS for all together."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

MOST_BYTES = 4_096

FOUND = Path("build/fuzz")
"""Where the bytes go that broke something."""

# Coverage is seen in what is imported here.
with atheris.instrument_imports(include=["chat_service.api", "json", "marshmallow", "uuid"]):
    from tests.fuzz.targets import SEEDS, TARGETS, TOKENS


def run_one(name: str, seconds: int) -> None:
    """Fuzz one target in this process, which ends with it; a bug ends it at once and names the bytes."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[name]):
            (Path(corpus) / str(number)).write_bytes(seed)
        words = Path(corpus, "tokens.dict")
        words.write_text(
            "".join('"' + "".join(f"\\x{byte:02x}" for byte in token.encode()) + '"\n' for token in TOKENS)
        )
        options = [f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", f"-dict={words}", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, "-verbosity=0", corpus], TARGETS[name])
        atheris.Fuzz()


def _escaped(token: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token.encode())


def run_all(seconds: int) -> int:
    """Fuzz the targets, each for its share of the time; return how many have failed."""
    failed = 0
    share = max(seconds // len(TARGETS), 1)
    for name in TARGETS:
        command = [sys.executable, "-m", "tests.fuzz", name, str(share)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = next((line.split()[-1] for line in ended.stderr.splitlines() if "executed_units" in line), "?")
        print(f"{name:16} {share} s, {runs} inputs: {'ok' if ended.returncode == 0 else 'FAILED'}", flush=True)  # noqa: T201
        if ended.returncode:
            failed += 1
            print(ended.stdout[-4_000:], ended.stderr[-8_000:], sep="\n")  # noqa: T201
    return failed


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_one(sys.argv[1], int(sys.argv[2]))
    else:
        sys.exit(run_all(int(os.environ.get("FUZZ_SECONDS", "600"))))
