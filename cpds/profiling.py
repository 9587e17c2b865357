"""Where the time of a run goes: seconds of its parts, which sum to the whole. Nothing heavy is imported here."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

LOADING, REST = "loading", "the rest"


class Profile:
    """Seconds of each part. One part runs at any moment: the innermost of those that are under way.

    `wait` is called before a clock is read: for a device to have done what it was asked for.
    """

    began: ClassVar[float] = time.perf_counter()  # the command, or when the run before this one ended

    def __init__(self, wait: Callable[[], object]) -> None:
        self.wait, self.seconds = wait, {LOADING: time.perf_counter() - Profile.began}
        self._since, self._open = time.perf_counter(), [REST]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def end(self) -> None:
        """Count what has passed since the last part; the next profile goes on from here."""
        self._charge()
        Profile.began = self._since

    def table(self) -> str:
        """Parts with their seconds and share, the longest first, and the whole."""
        whole = sum(self.seconds.values())
        rows = [*sorted(self.seconds.items(), key=lambda row: -row[1]), ("whole", whole)]
        return "".join(f"{name:20}{seconds:10.3f} s{seconds / whole:8.1%}\n" for name, seconds in rows)

    def _charge(self) -> None:
        self.wait()
        now, name = time.perf_counter(), self._open[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


def begin() -> None:
    """What comes from now on is loading, until a profile is taken."""
    Profile.began = time.perf_counter()


_CURRENT: ContextVar[Profile | None] = ContextVar("profile", default=None)


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Count what runs in it as this part of the profile that is being taken, if any."""
    profile = _CURRENT.get()
    if profile is None:
        yield
        return
    with profile.part(part):
        yield


@contextmanager
def profiled(wait: Callable[[], object]) -> Iterator[Profile]:
    """Take a profile of what runs in it."""
    profile = Profile(wait)
    token = _CURRENT.set(profile)
    try:
        yield profile
    finally:
        _CURRENT.reset(token)
        profile.end()
