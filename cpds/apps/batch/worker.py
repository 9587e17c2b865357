"""A worker: it loads the prior once and edits rows, and what goes wrong with one harms no other."""

import io
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any

from cpds.apps.batch.edits import edited
from cpds.apps.batch.executor import Outcome, Ready, Refused, Setup
from cpds.apps.batch.rows import Row
from cpds.errors import InputError, out_of_memory
from cpds.threads import wait_passively


class EditWorker:
    """Edits rows on one device. Its methods are what an executor's workers are called with."""

    def __init__(self, setup: Setup, device: str) -> None:
        self.setup, self.device = setup, device
        self._prior: Any = None

    def load(self) -> Ready | Refused:
        """Load the prior; to be called first."""
        wait_passively()
        from cpds.priors.load import load_prior
        from cpds.threads import choose_threads

        try:
            self._prior = load_prior(self.setup.prior, device=self.device, options=self.setup.options)
        except InputError as err:
            return Refused(str(err))
        with redirect_stderr(io.StringIO()):  # what every worker would say again
            choose_threads(self._prior)
        return Ready(self._prior.fingerprint, str(self._prior.device))

    def edit(self, rows: Sequence[Row]) -> list[Outcome]:
        """What became of each row. Rows whose edit at once fails are edited one by one."""
        began = time.perf_counter()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                results = list(edited(rows, self._prior))
            seconds = round((time.perf_counter() - began) / len(rows), 3)
            said = tuple(dict.fromkeys(str(w.message) for w in caught if w.category is UserWarning))
            return [
                Outcome(row.id, self._write(row, result.files), seconds, (*result.notes, *said))
                for row, result in zip(rows, results, strict=True)
            ]
        except Exception as err:  # of any library that the edit needs
            if len(rows) > 1:
                return [outcome for row in rows for outcome in self.edit([row])]
            seconds = round(time.perf_counter() - began, 3)
            return [Outcome(rows[0].id, seconds=seconds, error=reason(err))]

    def _write(self, row: Row, files: dict[str, bytes]) -> tuple[str, ...]:
        """Put a result into the folder of results; each file is there whole or not at all."""
        from cpds.runs import write_atomic

        names = []
        for suffix, content in files.items():
            file = self.setup.results / f"{row.output}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, content)
            names.append(f"{row.output}.{suffix}")
        return tuple(names)


def reason(err: Exception) -> str:
    """An error in one sentence: ours as they are, a library's with its kind."""
    from cpds.editor import EditDiverged

    if out_of_memory(err):
        return "out of memory: lower resolution or batch, or take low_memory"
    if isinstance(err, InputError | EditDiverged):
        return str(err)
    return f"{type(err).__name__}: {(str(err).strip().splitlines() or ['no reason given'])[0]}"
