"""Workers to try a cluster with: slow ones, dying ones; and who kills one of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any


class Dawdling:
    """A worker around another one: a line in `log` for each item begun, then a pause.

    Nothing is done before two processes have begun something: on a busy machine one of them
    may else have made all before the other one stands.
    """

    def __init__(self, log: Path, pause: float, make: Callable[..., Any], *settings: Any) -> None:
        self.log, self.pause, self.worker = log, pause, make(*settings)

    def __call__(self, item: Any) -> Any:
        with open(self.log, "a") as log:
            log.write(f"{os.getpid()} {item}\n")
        end = time.monotonic() + 60
        while len({pid for pids in begun(self.log).values() for pid in pids}) < 2:
            assert time.monotonic() < end, "waited in vain for another worker"
            time.sleep(0.02)
        time.sleep(self.pause)
        return self.worker(item)


def begun(log: Path) -> dict[str, list[int]]:
    """The processes that began each item, in order."""
    found = defaultdict(list)
    for line in log.read_text().splitlines() if log.exists() else ():
        pid, _, item = line.partition(" ")
        found[item].append(int(pid))
    return found


class Echo:
    """Gives back what it is given, from a process of its own."""

    def __call__(self, item: int) -> tuple[int, int]:
        return item, os.getpid()


class Dies:
    """A worker whose process ends whenever it gets a seven."""

    def __call__(self, item: int) -> int:
        if item == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return item


class Fails:
    """A worker that fails at zero once another one is in the midst of one, which takes minutes."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __call__(self, item: int) -> None:
        if item == 0:
            while not self.sign.exists():
                time.sleep(0.02)
            raise FloatingPointError("division by zero")
        self.sign.touch()
        for _ in range(3000):
            time.sleep(0.1)


class Killer(AbstractContextManager["Killer"]):
    """Kills the process that begins the item of this number, while it has it."""

    def __init__(self, log: Path, number: int) -> None:
        self.log, self.number = log, number
        self.victim, self.item = 0, ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            lines = self.log.read_text().splitlines() if self.log.exists() else []
            if len(lines) > self.number:
                pid, _, self.item = lines[self.number].partition(" ")
                self.victim = int(pid)
                os.kill(self.victim, signal.SIGKILL)
                return


def is_gone(pid: int) -> bool:
    """Whether a process has ended, buried or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
