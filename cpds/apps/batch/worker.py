"""What a worker's process serves: it loads the prior once and edits rows; what goes wrong with one harms no other."""

import io
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from typing import Any, Generic, TypeVar

from cpds.apps.batch.edits import edited
from cpds.apps.batch.executor import Outcome, Ready, Refused, Setup
from cpds.apps.batch.rows import Row
from cpds.errors import EditDiverged, InputError, out_of_memory
from cpds.threads import wait_passively

S = TypeVar("S", bound=Setup)


class PriorWorker(ABC, Generic[S]):
    """Edits rows on one device with one prior."""

    def __init__(self, setup: S, device: str) -> None:
        self.setup, self.device = setup, device
        self.prior: Any = None

    @abstractmethod
    def made(self, rows: Sequence[Any]) -> list[Outcome]:
        """Edit rows at once and put the results into their files; any error may be raised."""

    def load(self) -> Ready | Refused:
        """Load the prior; to be called first."""
        wait_passively()
        from cpds.priors.load import load_prior
        from cpds.threads import choose_threads

        try:
            self.prior = load_prior(self.setup.prior, device=self.device, options=self.setup.options)
        except InputError as err:
            return Refused(str(err))
        with redirect_stderr(io.StringIO()):  # what every worker would say again
            choose_threads(self.prior)
        return Ready(self.prior.fingerprint, str(self.prior.device))

    def edit(self, rows: Sequence[Any]) -> list[Outcome]:
        """What became of each row. Rows whose edit at once fails are edited one by one."""
        began = time.perf_counter()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                outcomes = self.made(rows)
            seconds = round((time.perf_counter() - began) / len(rows), 3)
            said = tuple(dict.fromkeys(str(w.message) for w in caught if w.category is UserWarning))
            return [replace(outcome, seconds=seconds, notes=(*outcome.notes, *said)) for outcome in outcomes]
        except Exception as err:  # of any library that the edit needs
            if len(rows) > 1:
                return [outcome for row in rows for outcome in self.edit([row])]
            seconds = round(time.perf_counter() - began, 3)
            return [Outcome(rows[0].id, seconds=seconds, error=reason(err), refused=isinstance(err, InputError))]


class EditWorker(PriorWorker[Setup]):
    """Edits rows of a batch's manifest."""

    def made(self, rows: Sequence[Row]) -> list[Outcome]:
        results = list(edited(rows, self.prior))
        pairs = zip(rows, results, strict=True)
        return [Outcome(row.id, self._write(row, result.files), notes=result.notes) for row, result in pairs]

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
    if out_of_memory(err):
        return "out of memory: lower resolution or batch, or take low_memory"
    if isinstance(err, InputError | EditDiverged):
        return str(err)
    return f"{type(err).__name__}: {(str(err).strip().splitlines() or ['no reason given'])[0]}"
