"""Who may see what: each visitor has a secret in a cookie, and a folder that it alone opens."""

import hashlib
import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from cpds.config import require

COOKIE = "cpds_visitor"
UPLOADS, INPUTS, RUNS = "uploads", "inputs", "runs"


class Visitor:
    """One browser's own files: `uploads` of open pages, `inputs` of runs that are not finished, and `runs`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uploads, self.inputs, self.runs = (folder / name for name in (UPLOADS, INPUTS, RUNS))

    def owns(self, path: str | Path) -> bool:
        """Whether a file is one of this visitor's; links and `..` are followed."""
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.folder))

    def require_own(self, path: str | Path) -> Path:
        """InputError unless an upload that a page names is there and this visitor's own."""
        require(self.owns(path) and os.path.isfile(path), "that file is not here any more: upload it again")
        return Path(path)

    def without_places(self, text: str) -> str:
        """A message without the folders of this visitor's files: their names remain."""
        return re.sub(re.escape(str(self.folder)) + r"/\w+/(?:[\w-]+/)?", "", text)

    def place(self, name: str) -> Path:
        """A free place for an upload of this name."""
        kept = re.sub(r"[^\w.-]+", "_", Path(name.replace("\\", "/")).name)[-80:].lstrip(".") or "upload"
        folder = self.uploads / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return folder / kept

    def fresh_run(self) -> str:
        """The name of a new run: names sort by time."""
        return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"

    def forget_uploads(self) -> None:
        """Remove what was uploaded and is no part of a run."""
        shutil.rmtree(self.uploads, ignore_errors=True)

    def forget_inputs(self, run: str) -> None:
        """Remove the files that a run was begun with; it cannot be resumed after that."""
        shutil.rmtree(self.inputs / run, ignore_errors=True)

    def forget_run(self, run: str) -> None:
        """Remove a run and the files that it was begun with."""
        self.forget_inputs(run)
        shutil.rmtree(self.runs / run, ignore_errors=True)


class Visitors:
    """All visitors' folders, below `root`. A folder is named by a digest of its secret, so no path gives that away."""

    def __init__(self, root: Path, keep_hours: float) -> None:
        self.root, self.keep_hours = Path(os.path.abspath(root)), keep_hours

    @staticmethod
    def new_secret() -> str:
        return secrets.token_urlsafe(32)

    def of(self, secret: str) -> Visitor:
        return Visitor(self.root / hashlib.sha256(secret.encode()).hexdigest()[:32])

    def forget_uploads(self) -> None:
        """Remove all uploads, where no page can be open."""
        for folder in self.root.glob(f"*/{UPLOADS}"):
            shutil.rmtree(folder, ignore_errors=True)

    def remove_old(self) -> None:
        """Remove runs and uploads that nobody has touched for `keep_hours`, and what is empty after that."""
        before = time.time() - 3600 * self.keep_hours
        for kind in (RUNS, UPLOADS):
            for folder in self.root.glob(f"*/{kind}/*"):
                if newest(folder) < before:
                    shutil.rmtree(folder, ignore_errors=True)
                    Visitor(folder.parents[1]).forget_inputs(folder.name)
        for folder in [*self.root.glob("*/*"), *self.root.glob("*")]:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def newest(folder: Path) -> float:
    """When anything in a folder, or itself, was last written."""
    times = [folder.stat().st_mtime, *(f.stat().st_mtime for f in folder.glob("*"))] if folder.is_dir() else []
    return max(times, default=0.0)
