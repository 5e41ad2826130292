"""A new machine with the smallest Debian, and systemd as its first process: for what docs/deploy says to do as root.

It uses the network of this machine, so the ports that the pages name must be free here.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from chat_service.embedded.process import die_with_parent, stop
from tests.wait import wait_until
from tests.workers import children_of

RELEASE = os.environ.get("DEBIAN", "bookworm")
"""The code name of the Debian to install."""

PROGRAMS = ("debootstrap", "systemd-nspawn", "nsenter")

PACKAGES = "systemd,systemd-sysv,dbus,ca-certificates"

ROOTS_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

BLOCK_SECONDS = 600
"""No block of commands takes longer, also where packages come slowly."""

REGISTRY_CERTIFICATES = "/etc/registry-certificates.pem"
"""A copy of the certificates that pip trusts on this machine, if it is told so."""


class Shell:
    """One root's shell on a machine: blocks of commands share its variables and its folder."""

    def __init__(self, leader: int, root: Path, log: Path) -> None:
        self._script, self._log, self._blocks = root / "root/block.sh", log, 0
        environment = [f"PATH={ROOTS_PATH}", "HOME=/root", "LANG=C.UTF-8"]
        if "PIP_CERT" in os.environ:
            shutil.copy(os.environ["PIP_CERT"], root / REGISTRY_CERTIFICATES[1:])
            environment.append(f"PIP_CERT={REGISTRY_CERTIFICATES}")
        with log.open("w") as output:
            self._process = subprocess.Popen(
                ["nsenter", f"--target={leader}", "--all", "--root", "--wd", "env", "-i", *environment, "bash", "-e"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def run(self, block: str) -> str:
        """Run commands, of which none may fail, and return what they print."""
        self._blocks += 1
        begin, end = len(self._log.read_text()), f"block {self._blocks} has ended"
        self._script.write_text(block)
        assert self._process.stdin is not None
        self._process.stdin.write(f"source /root/block.sh < /dev/null; echo {end}\n")
        self._process.stdin.flush()
        wait_until(lambda: end in self._log.read_text() or self._process.poll() is not None, BLOCK_SECONDS, every=0.2)
        printed = self._log.read_text()[begin:]
        assert end in printed, f"{block}\n\n{printed}"
        return printed.removesuffix(f"{end}\n")

    def close(self) -> None:
        """End the shell."""
        stop(self._process, 5)


@contextmanager
def machine(folder: Path) -> Iterator[tuple[Path, Shell]]:
    """Install and boot a machine; give the folder that is its root, and a shell on it. At the end it is removed."""
    root = folder / "root"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    boot = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--resolv-conf=copy-host"]
    boot_log = folder / "boot.log"
    with boot_log.open("w") as log:
        process = subprocess.Popen(
            [*boot, f"--directory={root}", "--machine=chat-service"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - nothing but prctl runs in between
        )
    try:
        wait_until(lambda: "Multi-User System" in boot_log.read_text())
        (leader,) = children_of(process.pid)
        with closing(Shell(leader, root, folder / "shell.log")) as shell:
            yield root, shell
    finally:
        stop(process, 30)
        shutil.rmtree(root)
