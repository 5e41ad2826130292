"""Run all targets in turn, for FUZZ_SECONDS together, or only one: `python -m tests.fuzz [target seconds]`."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

MAX_BYTES = 4_096

# The fuzzer sees the coverage only of modules that are imported here.
with atheris.instrument_imports(include=["chat_service.api", "json", "marshmallow", "uuid"]):
    from tests.fuzz.targets import SEEDS, TARGETS, TOKENS


def run_one(name: str, seconds: int) -> None:
    """Fuzz one target, and end this process. A bug ends it at once, and prints the input."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS[name]):
            (Path(corpus) / str(number)).write_bytes(seed)
        tokens = Path(corpus, "tokens.dict")
        tokens.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS))
        options = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", f"-dict={tokens}", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *options, "-verbosity=0", corpus], TARGETS[name])
        atheris.Fuzz()


def _escaped(token: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token.encode())


def run_all(seconds: int) -> int:
    """Fuzz each target for an equal share of the time; return how many failed."""
    failed = 0
    share = max(seconds // len(TARGETS), 1)
    for name in TARGETS:
        command = [sys.executable, "-m", "tests.fuzz", name, str(share)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = next((line.split()[-1] for line in result.stderr.splitlines() if "executed_units" in line), "?")
        print(f"{name:16} {share} s, {runs} inputs: {'ok' if result.returncode == 0 else 'FAILED'}", flush=True)  # noqa: T201
        if result.returncode:
            failed += 1
            print(result.stdout[-4_000:], result.stderr[-8_000:], sep="\n")  # noqa: T201
    return failed


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_one(sys.argv[1], int(sys.argv[2]))
    else:
        sys.exit(run_all(int(os.environ.get("FUZZ_SECONDS", "600"))))
