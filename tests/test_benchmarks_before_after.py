"""Settings side by side: whose edit stands where."""

from pathlib import Path

import pytest
import torch
from datasets import make_dataset
from torch import Tensor

from benchmarks.before_after import SheetConfig, main
from cpds.errors import InputError
from cpds.evaluation.cases import Case, load_cases
from cpds.evaluation.runner import Evaluation
from cpds.evaluation.scoring import Metrics
from cpds.images import open_image, resized


def test_each_row_holds_source_truth_and_the_settings_in_their_order(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    cases, folders = load_cases(data), [tmp_path / name for name in ("dark", "light")]
    for folder, gray in zip(folders, (0.0, 0.8), strict=True):

        def paint(group: list[Case], sources: Tensor, gray: float = gray) -> tuple[Tensor, float]:
            return torch.full_like(sources, gray), 1.0

        Evaluation(folder, {}).run(cases[1:] if gray else cases, paint, Metrics(), 2)
    out = tmp_path / "sheet.png"
    main(SheetConfig(str(data), tuple(folders), out))
    sheet, shown = open_image(out)[0], cases[1:]  # what both have finished
    truths = int(any(case.ground_truth for case in shown))
    tiles = sheet[:, :128].split(128, 2)
    first = resized(open_image(shown[0].source), (128, 128))[0]
    assert float((tiles[0] - first).abs().mean()) < 0.02
    assert float(tiles[1 + truths].amax()) == 0.0
    assert torch.allclose(tiles[2 + truths], torch.tensor(204 / 255))


def test_settings_without_a_case_in_common_are_refused(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    with pytest.raises(InputError, match="no case is finished in every setting"):
        main(SheetConfig(str(data), (tmp_path / "nothing",), tmp_path / "sheet.png"))
    with pytest.raises(InputError, match="no settings are given"):
        SheetConfig(str(data), (), tmp_path / "sheet.png")
