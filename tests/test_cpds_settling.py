"""When an edit counts as settled, and what becomes of its run then."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Recorder
from safetensors.torch import load, save

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import run, start
from cpds.errors import InputError
from cpds.priors.unet import UNetPrior
from cpds.representation import ParamGroup
from cpds.session import edit_in_folder
from cpds.settling import WINDOW, Settling, net_change
from cpds.state import EditState
from representations.latent import LatentImage

# every step a tenth shorter than the one before: the edit comes to rest
CONFIG = EditConfig(GuidanceConfig("dds", normalize_gradient=True), 60, "sgd", 0.1, lr_decay=0.9**59, stop_below=0.3)


def begin(prior: UNetPrior, config: EditConfig = CONFIG, target: str = "a dog", edits: int = 1) -> EditState:
    image = torch.rand(edits, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return start(LatentImage(image, prior), prior, ["a cat"] * edits, [target] * edits, config)


def test_net_change_is_the_ratio_of_distances() -> None:
    now, before, first = (
        [torch.tensor([x, 0.0]), torch.tensor([[y]])] for x, y in ((3.0, 4.0), (3.0, 3.0), (0.0, 0.0))
    )
    assert net_change(now, before, first) == pytest.approx(1 / 5)
    assert net_change(now, now, now) == 0


@pytest.mark.parametrize("below", [0.0, 0.05, 0.2, 0.6])
def test_an_approach_settles_where_the_closed_form_says(below: float) -> None:
    """x_k = 1 - r^k has moved by r^(k - 5) - r^k in 5 steps; the slower of two groups counts."""
    x, fast, r = torch.zeros(3), torch.zeros(2), 0.9
    settling = Settling(below, [ParamGroup("slow", [x], 1.0), ParamGroup("fast", [fast], 1.0)])
    for k in range(1, 61):
        x.fill_(1 - r**k)
        fast.fill_(1 - 0.5**k)
        settling.look(k)
        done = k - k % WINDOW
        wanted = (r ** (done - WINDOW) - r**done) / (1 - r**done) if below and done else 1.0
        assert settling.change == pytest.approx(wanted, rel=1e-4)
        assert settling.settled == (wanted < below)
    assert settling.settled == (below > 0)
    assert bool(settling.tensors()) == (below > 0)


def test_a_settled_edit_ends_early_as_its_steps_were(prior: UNetPrior) -> None:
    found, whole = (
        run(begin(prior)),
        Recorder(lambda state, _: state.representation.param_groups()[0].tensors[0].clone()),
    )
    run(begin(prior, replace(CONFIG, stop_below=0.0)), [whole])
    steps = [begin(prior).representation.param_groups()[0].tensors[0].detach(), *(x.detach() for x in whole.notes)]
    looks = range(WINDOW, 61, WINDOW)
    ratios = [float((steps[k] - steps[k - WINDOW]).norm() / (steps[k] - steps[0]).norm()) for k in looks]
    first = next(k for k, ratio in zip(looks, ratios, strict=True) if ratio < CONFIG.stop_below)
    assert found.step == first < 60
    assert torch.equal(found.representation.param_groups()[0].tensors[0], steps[first])


@pytest.mark.parametrize("after", [3, 5, 7])
def test_a_resumed_edit_settles_at_the_same_step(prior: UNetPrior, after: int) -> None:
    whole, saved = begin(prior), dict[int, bytes]()
    run(whole, [Recorder(lambda state, _: saved.setdefault(state.step, save(state.tensors())))])
    again = begin(prior)
    again.load(load(saved[after]))
    assert run(again).step == whole.step > 7
    assert all(torch.equal(again.tensors()[k], v) for k, v in whole.tensors().items())
    longer = begin(prior, replace(CONFIG, num_inference_steps=90))
    longer.load(whole.tensors())
    assert run(longer).step == whole.step  # it has settled, whatever is asked for
    with pytest.raises(ValueError, match=r"settling\.change is missing"):
        again.load({k: v for k, v in whole.tensors().items() if k != "settling.change"})


def test_the_run_of_a_settled_edit_is_finished(prior: UNetPrior, tmp_path: Path) -> None:
    def again(seen: Recorder) -> int:
        image = LatentImage(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), prior)
        return edit_in_folder(image, prior, "a cat", "a dog", tmp_path, CONFIG, resume=True, callbacks=[seen]).step

    first, second = Recorder(lambda *_: 0), Recorder(lambda *_: 0)
    step = again(first)
    assert WINDOW < step == len(first.notes) == len((tmp_path / "metrics.jsonl").read_text().splitlines()) < 60
    assert (tmp_path / "result.png").exists()
    assert again(second) == step
    assert not second.notes


def test_what_does_not_move_at_all_has_settled(prior: UNetPrior) -> None:
    assert run(begin(prior, target="a cat")).step == WINDOW


def test_several_edits_at_once_are_refused(prior: UNetPrior) -> None:
    with pytest.raises(
        InputError, match=r"stop_below 0\.3 is for one edit at a time, not for 2 together: edit them one"
    ):
        begin(prior, edits=2)
    with pytest.raises(InputError, match=r"stop_below must be at least 0 and below 1, got 1\.0"):
        replace(CONFIG, stop_below=1.0)
