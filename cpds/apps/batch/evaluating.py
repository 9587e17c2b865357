"""An evaluation whose edits are made by workers: every case in every setting is a row, the driver measures them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpds.apps.batch.driver import Task, work
from cpds.apps.batch.executor import Executor, Outcome, Ready, Setup
from cpds.apps.batch.worker import PriorWorker
from cpds.config import require
from cpds.evaluation.settings import Setting

if TYPE_CHECKING:
    from cpds.evaluation.cases import Case
    from cpds.evaluation.runner import Evaluation
    from cpds.evaluation.scoring import Metrics
    from cpds.priors.base import Prior
    from representations.latent import LatentImageConfig


@dataclass(frozen=True)
class EvalRow:
    """One case in one setting."""

    label: str
    case: "Case"

    @property
    def id(self) -> str:
        return f"{self.label}/{self.case.id}"


@dataclass(frozen=True)
class EvalOutcome(Outcome):
    """What became of it."""

    samples: float = 0.0  # through the network


@dataclass(frozen=True)
class EvalSetup(Setup):
    """What every worker of an evaluation is made from; `results` holds a folder for each setting."""

    settings: Mapping[str, Setting]
    latent: "LatentImageConfig"
    there_and_back: bool


class EvalWorker(PriorWorker[EvalSetup]):
    """Edits cases; all rows of a call have one setting and images of one size."""

    def made(self, rows: Sequence[EvalRow]) -> list[Outcome]:
        from cpds.evaluation.editors import batch_editor
        from cpds.evaluation.runner import make
        from representations.latent import LatentImage

        setup, label = self.setup, rows[0].label
        edit = batch_editor(
            lambda images: LatentImage(images, self.prior, setup.latent), self.prior, setup.settings[label]
        )
        costs = make(setup.results / label, [row.case for row in rows], edit, setup.there_and_back)
        pairs = zip(rows, costs, strict=True)
        return [EvalOutcome(row.id, samples=cost["samples"]) for row, cost in pairs]


def evaluate(
    evaluations: "Mapping[str, Evaluation]",
    cases: "Sequence[Case]",
    executor: Executor[Any],
    prior: "Prior",
    metrics: "Metrics",
    batch: int,
    report: Callable[[int], object] = lambda done: None,
) -> list[Outcome]:
    """Edit and measure every case that is not done yet; the outcomes of those that failed twice.

    `report` is told how many are done. InputError where a worker has another prior than `prior`, which measures.
    """
    from cpds.evaluation.runner import batches

    todo = {label: evaluation.todo(cases) for label, evaluation in evaluations.items()}
    rows = {row.id: row for label, left in todo.items() for row in (EvalRow(label, case) for case in left)}
    done, failed = len(evaluations) * len(cases) - len(rows), []
    report(done)
    tasks = [Task([EvalRow(k, case) for case in group]) for k, left in todo.items() for group in batches(left, batch)]
    with closing(work(tasks, executor)) as events:
        for event in events:
            if isinstance(event, Ready):
                same = event.fingerprint == prior.fingerprint
                require(same, f"the prior of a worker on {event.device} is not the one here: give all the same files")
                continue
            if event.error is not None:
                failed.append(event)
                continue
            assert isinstance(event, EvalOutcome)
            row, done = rows[event.id], done + 1
            cost = {"seconds": event.seconds, "samples": event.samples}
            evaluations[row.label].note(row.case, cost, metrics)
            report(done)
    if not failed:
        for evaluation in evaluations.values():
            evaluation.finish(cases)
    return failed
