"""One sheet of several settings that `cpds eval` has measured: source, ground truth and the edits side by side.

python -m benchmarks.before_after emoji-edit runs/before/cpds runs/after/cpds --split demo --out sheet.png
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from cpds.config import require
from cpds.errors import InputError
from cpds.evaluation.cases import load_cases, select
from cpds.evaluation.runner import contact_sheet, read_rows
from cpds.images import png
from cpds.runs import write_atomic
from scripts.program import run_program


@dataclass(frozen=True)
class SheetConfig:
    """Which edits to show."""

    data: tyro.conf.Positional[str]
    """What the settings edited: emoji-edit, emoji-edit-v2, or a manifest."""
    settings: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of settings, as cpds eval writes one for each, in the order in which they are shown."""
    out: Path
    """PNG to write."""
    split: str | None = None
    """Only this split."""
    tag: str | None = None
    """Only cases with this tag."""
    at_most: int = 48
    """Show as many cases, spread evenly over those that every setting has finished."""

    def __post_init__(self) -> None:
        require(len(self.settings) > 0, "no settings are given: name at least one folder of a setting")
        require(self.at_most >= 1, f"at_most must be >= 1, got {self.at_most}")


def main(config: SheetConfig) -> None:
    cases = select(load_cases(config.data, config.split), config.tag, None)
    for folder in config.settings:
        finished = read_rows(folder)
        cases = [case for case in cases if case.id in finished]
    if not cases:
        raise InputError("no case is finished in every setting: check data, split, and the settings' folders")
    write_atomic(config.out, png(contact_sheet(cases, config.settings, config.at_most)))


if __name__ == "__main__":
    sys.exit(run_program(main, SheetConfig, __doc__))
