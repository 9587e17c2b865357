"""The oracle: it chooses cells that the ground truth leaves as they are, and `cpds eval` alone takes it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import make_dataset

from cpds import PRESETS
from cpds.config import GuidanceConfig
from cpds.errors import InputError
from cpds.evaluation.cases import load_cases
from cpds.evaluation.editors import batch_editor, check
from cpds.evaluation.oracle import STAYS, Oracle, cell_changes
from cpds.evaluation.settings import evaluated, replaced
from cpds.images import open_image
from cpds.priors.unet import UNetPrior
from cpds.selection.base import Cells, PatchSelector
from representations.latent import LatentImage


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(rows: int = 4, columns: int = 4) -> Cells:
    features = torch.eye(rows * columns)
    return Cells(features, features, (rows, columns))


def pair(*changed: tuple[int, int], height: int = 32, width: int = 32, by: float = 0.1) -> tuple[torch.Tensor, ...]:
    """A gray image, and one in which these pixels differ."""
    source = torch.full((1, 3, height, width), 0.5)
    truth = source.clone()
    for y, x in changed:
        truth[..., y, x] += by
    return source, truth


@pytest.mark.parametrize(("rows", "columns", "height", "width"), [(4, 4, 32, 32), (4, 6, 32, 48), (6, 4, 48, 32)])
def test_a_cell_with_one_changed_pixel_is_never_chosen(rows: int, columns: int, height: int, width: int) -> None:
    """Cells are 8 px; of all others everyone is, in the maps' row order."""
    oracle = Oracle(*pair((3, 17), (31, 0), height=height, width=width))
    changed = {2, (31 // 8) * columns}
    chosen = oracle.select(cells(rows, columns), 1000, generator())
    assert set(chosen.tolist()) == set(range(rows * columns)) - changed
    assert len(chosen) == rows * columns - 2


def test_of_many_n_are_chosen_by_chance() -> None:
    oracle = Oracle(*pair((0, 0)))
    several = [oracle.select(cells(), 5, generator(seed)).tolist() for seed in range(40)]
    assert all(len(set(chosen)) == 5 for chosen in several)
    assert set().union(*several) == set(range(1, 16))
    assert oracle.select(cells(), 5, generator()).tolist() == several[0]


def test_small_changes_count_as_none() -> None:
    for by, kept in ((0.029, 16), (0.031, 15)):
        assert len(Oracle(*pair((0, 0), by=by)).select(cells(), 100, generator())) == kept
    source, truth = pair((0, 0), by=0.06)
    truth[:, 1:, 0, 0] = 0.5  # in one channel of three: 0.02 in the mean
    assert len(Oracle(source, truth).select(cells(), 100, generator())) == 16


def test_where_all_changes_the_two_calmest_are_chosen() -> None:
    source = torch.zeros(1, 3, 2, 2)
    truth = torch.tensor([[0.4, 0.1], [0.9, 0.2]]).expand(1, 3, 2, 2)
    assert set(Oracle(source, truth).select(cells(2, 2), 100, generator()).tolist()) == {1, 3}


def test_an_oracle_for_each_case_steers_its_edit(prior: UNetPrior, tmp_path: Path) -> None:
    cases = load_cases(make_dataset(tmp_path / "data"))[:2]
    sources = torch.cat([open_image(case.source) for case in cases])
    plain = replace(PRESETS["cds"], num_inference_steps=2, lr=20.0)
    plain = replace(plain, guidance=replace(plain.guidance, n_patches=8, patch_selector="random"))
    oracle = replaced(evaluated(plain), {"patch_selector": "oracle"})

    def represent(images: torch.Tensor) -> LatentImage:
        return LatentImage(images, prior)

    random, _ = batch_editor(represent, prior, plain)(cases, sources)
    both, samples = batch_editor(represent, prior, oracle)(cases, sources)
    alone, _ = batch_editor(represent, prior, oracle)(cases[1:], sources[1:])
    assert samples == 8
    assert (both - random).abs().amax((1, 2, 3)).min() > 0.01
    assert (both[1:] - alone).abs().max() <= 1.5 / 255
    assert isinstance(Oracle(sources, sources), PatchSelector)


def test_cases_without_a_ground_truth_are_refused(prior: UNetPrior, tmp_path: Path) -> None:
    cases = load_cases(make_dataset(tmp_path / "data"))
    oracle = replaced(evaluated(PRESETS["cpds"]), {"patch_selector": "oracle"})
    with pytest.raises(InputError, match="patch_selector oracle needs ground truths: case c3 has none"):
        check(lambda images: LatentImage(images, prior), prior, cases, [oracle])
    check(lambda images: LatentImage(images, prior), prior, cases[:3], [oracle])


def test_an_edit_itself_has_no_oracle() -> None:
    with pytest.raises(InputError, match=r"patch_selector must be one of random, .*, got 'oracle'"):
        GuidanceConfig(patch_selector="oracle")


@pytest.mark.parametrize(("difference", "stays"), [(0.0, True), (0.02, True), (0.04, False), (-0.5, False)])
def test_a_cell_stays_where_no_pixel_differs(difference: float, stays: bool) -> None:
    source = torch.full((1, 3, 8, 12), 0.5)
    truth = source.clone()
    truth[0, :, 5, 7] += difference  # one pixel, in the second row and third column of cells 4 px high and 3 px wide
    found = (cell_changes(source, truth, (2, 4))[0] < STAYS).tolist()
    assert found == [i != 6 or stays for i in range(8)]
