"""deploy/Containerfile, read: enough to do by hand what a builder would do."""

import json
import re
from pathlib import Path


class Containerfile:
    """Its instructions, in their order."""

    def __init__(self, project: Path) -> None:
        text = (project / "deploy/Containerfile").read_text().replace("\\\n", " ")
        lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
        self.instructions = [(name, " ".join(rest.split())) for name, rest in lines]

    def all(self, name: str) -> list[str]:
        """Return what follows each instruction of a name."""
        return [rest for found, rest in self.instructions if found == name]

    @property
    def stages(self) -> list[list[tuple[str, str]]]:
        """What comes after each FROM."""
        starts = [at for at, (name, _) in enumerate(self.instructions) if name == "FROM"]
        return [self.instructions[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]

    @property
    def copied(self) -> list[str]:
        """What it takes from the project."""
        copies = [rest.split() for rest in self.all("COPY") if not rest.startswith("--from=")]
        return [source for *sources, _ in copies for source in sources]

    @property
    def variables(self) -> dict[str, str]:
        return {name: value for rest in self.all("ENV") for name, value in re.findall(r"(\w+)=(\S+)", rest)}

    @property
    def command(self) -> list[str]:
        (found,) = self.all("CMD")
        return list(json.loads(found))

    @property
    def health_check(self) -> list[str]:
        (found,) = self.all("HEALTHCHECK")
        return list(json.loads(found.partition("CMD ")[2]))
