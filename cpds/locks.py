"""A folder that one process alone works in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cpds.errors import InputError
from cpds.stored import CONFIG

LOCK = ".lock"  # locked by the process that works there; the file itself stays


@contextmanager
def held(folder: Path, claim: str = CONFIG) -> Iterator[None]:
    """This process alone works in `folder`, which is made if need be, until the block ends.

    Where the block ends without the file `claim`, what was made for it is removed. InputError if another process is at
    work there (the lock of a killed one is free), or nothing can be written.
    """
    made = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        new = not os.path.lexists(folder / LOCK)
        lock.acquire()
    except Timeout as err:
        raise InputError(f"another process is at work in {folder}: wait until it has ended, or stop it first") from err
    except OSError as err:
        _remove_empty(made)
        raise InputError(f"output folder {folder} cannot be written ({err.strerror}): choose another") from err
    try:
        yield
    finally:
        unclaimed = not os.path.lexists(folder / claim)
        if unclaimed and new:
            with suppress(OSError):
                os.unlink(folder / LOCK)
        lock.release()
        if unclaimed:
            _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    """Remove the empty ones, the innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
