"""The nodes' names in /etc/hosts: ranks on two nodes find each other by name, so each name must mean loopback."""

import fcntl
import re
from collections.abc import Callable
from pathlib import Path

HOSTS = Path("/etc/hosts")


class HostsError(Exception):
    """A node's name cannot be made to mean loopback; the text says why and what to do."""


def _markers(folder: Path) -> tuple[str, str]:
    return f"# begin normhpc minicluster {folder}\n", f"# end normhpc minicluster {folder}\n"


def without_block(text: str, folder: Path) -> str:
    begin, end = map(re.escape, _markers(folder))
    return re.sub(f"^{begin}.*?^{end}", "", text, flags=re.DOTALL | re.MULTILINE)


def blocks(text: str) -> list[Path]:
    """Folders of the clusters that have a block in ``text``."""
    return [Path(folder) for folder in re.findall(r"^# begin normhpc minicluster (.*)\n", text, flags=re.MULTILINE)]


def with_block(text: str, folder: Path, names: list[str]) -> str:
    """``text`` in which ``names`` mean loopback.

    A block of its own for every cluster, although two clusters have the same names: each takes only its own away.
    Raises ``HostsError`` when a name already means another address.
    """
    text = without_block(text, folder)
    others = text
    for other in blocks(text):
        others = without_block(others, other)
    known = {}
    for line in others.splitlines():
        address, *aliases = line.partition("#")[0].split() or [""]
        for alias in aliases:
            known.setdefault(alias, address)
    for name in names:
        if name in known and not known[name].startswith("127."):
            raise HostsError(
                f"{HOSTS} says that {name} is {known[name]}; a minicluster's nodes are all on this machine. "
                "Rename that host, or run in a container."
            )
    missing = [name for name in names if name not in known]
    if not missing:
        return text
    begin, end = _markers(folder)
    newline = "" if not text or text.endswith("\n") else "\n"
    return text + newline + begin + "".join(f"127.0.0.1 {name}\n" for name in missing) + end


def _rewrite(change: Callable[[str], str]) -> None:
    # in place and under a lock: in a container /etc/hosts is a mount that cannot be replaced
    with HOSTS.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.read()
        after = change(before)
        if after != before:
            file.seek(0)
            file.write(after)
            file.truncate()


def add(folder: Path, names: list[str]) -> None:
    """Make ``names`` mean loopback, and drop blocks whose cluster's folder is gone."""

    def change(text: str) -> str:
        for other in blocks(text):
            if not other.exists():
                text = without_block(text, other)
        return with_block(text, folder, names)

    text = HOSTS.read_text() if HOSTS.exists() else ""
    if change(text) == text:
        return
    try:
        _rewrite(change)
    except OSError as error:
        wanted = " ".join(names)
        raise HostsError(
            f"{HOSTS} cannot be written ({error.strerror}), and ranks find each other by the names of their nodes. "
            f"Add a line to it: 127.0.0.1 {wanted}"
        ) from None


def remove(folder: Path) -> None:
    if HOSTS.exists() and _markers(folder)[0] in HOSTS.read_text():
        _rewrite(lambda text: without_block(text, folder))
