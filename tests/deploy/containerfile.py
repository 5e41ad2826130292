"""Reads deploy/Containerfile: enough for tests to do what a builder would do."""

import json
import re
from pathlib import Path


class Containerfile:
    """The instructions of deploy/Containerfile, in order."""

    def __init__(self, project: Path) -> None:
        text = (project / "deploy/Containerfile").read_text().replace("\\\n", " ")
        lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
        self.instructions = [(name, " ".join(arguments.split())) for name, arguments in lines]

    def all(self, name: str) -> list[str]:
        """Return the arguments of each instruction of a name."""
        return [arguments for instruction, arguments in self.instructions if instruction == name]

    @property
    def stages(self) -> list[list[tuple[str, str]]]:
        """The instructions of each stage, from its FROM on."""
        starts = [index for index, (name, _) in enumerate(self.instructions) if name == "FROM"]
        return [self.instructions[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]

    @property
    def copied(self) -> list[str]:
        """The files and folders that it copies from the project."""
        copies = [arguments.split() for arguments in self.all("COPY") if not arguments.startswith("--from=")]
        return [source for *sources, _ in copies for source in sources]

    @property
    def variables(self) -> dict[str, str]:
        return {name: value for arguments in self.all("ENV") for name, value in re.findall(r"(\w+)=(\S+)", arguments)}

    @property
    def command(self) -> list[str]:
        (arguments,) = self.all("CMD")
        return list(json.loads(arguments))

    @property
    def health_check(self) -> list[str]:
        (arguments,) = self.all("HEALTHCHECK")
        return list(json.loads(arguments.partition("CMD ")[2]))
