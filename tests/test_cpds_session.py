"""`edit_in_folder`: from Python what the command line does, with a run folder, resuming and parts of one's own."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FILES, Plain, randn, snapshot
from PIL import Image
from safetensors.torch import load_file

from cpds import EditConfig, GuidanceConfig, InputError, Objective, OwnParts, RunOptions, edit_in_folder
from cpds.apps.cli.main import main
from cpds.guidance import StepResult
from cpds.objectives.distillation import dds, sds
from cpds.objectives.table import OBJECTIVES
from cpds.presets import PRESETS
from cpds.priors.unet import UNetPrior
from cpds.selection.rules import RandomPatches
from cpds.session import EditStopped
from cpds.state import EditState
from representations.latent import LatentImage, LatentImageConfig

PROMPTS = ("a cat", "a dog")
CPDS = PRESETS["cpds"]
# as the fixture `command` has it
CONFIG = replace(CPDS, num_inference_steps=3, lr=20.0, guidance=replace(CPDS.guidance, n_patches=8))
LEARNED = replace(
    CONFIG, num_inference_steps=6, guidance=replace(CONFIG.guidance, patch_selector="learned", selector_every=2)
)


def thing() -> Plain:
    parts = {"one": randn(0, 1, 4, 8, 8), "two": randn(1, 1, 4, 8, 8)}
    return Plain(sum(parts.values(), torch.zeros(())), **parts)


@pytest.fixture
def plain(prior: UNetPrior) -> Callable[[], Plain]:
    """A new representation of two tensors, always the same."""

    def make() -> Plain:
        made = thing()
        made.prior = prior
        return made

    return make


class At:
    """Does something after a step, and counts the steps."""

    def __init__(self, step: int = 0, do: Callable[[], object] = lambda: None) -> None:
        self.step, self.do, self.steps = step, do, 0

    def started(self, state: EditState) -> None:
        pass

    def stepped(self, state: EditState, result: StepResult) -> None:
        self.steps += 1
        if state.step == self.step:
            self.do()

    def finished(self, state: EditState) -> None:
        pass


class Killed(Exception):
    pass


def raise_killed() -> None:
    raise Killed


def ends(folder: Path) -> dict[str, bytes]:
    """All that a run of the same settings must have left."""
    names = ("result.png", "before_after.png", "trajectory.gif", "metrics.jsonl")
    files = [*(folder / name for name in names), *sorted((folder / "frames").iterdir())]
    return {file.name: file.read_bytes() for file in files}


# ---- the same as the command line


@pytest.mark.parametrize("masked", [False, True])
def test_python_leaves_what_the_command_leaves(
    edit: Callable[..., int], prior: UNetPrior, image_file: Path, tmp_path: Path, masked: bool
) -> None:
    mask = None
    if masked:
        mask = tmp_path / "mask.png"
        Image.linear_gradient("L").resize((40, 28)).save(mask)
    assert edit(mask=mask, resolution=40) == 0
    image = LatentImage.open(image_file, prior, LatentImageConfig(40), mask)
    state = edit_in_folder(image, prior, *PROMPTS, tmp_path / "python", CONFIG)
    assert ends(tmp_path / "python") == ends(tmp_path / "out")
    assert len(ends(tmp_path / "out")) == 4 + 3  # a frame a step
    theirs, ours = (load_file(tmp_path / f / "checkpoint.safetensors") for f in ("out", "python"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[k], ours[k]) for k in theirs)
    assert torch.equal(state.unpolished["param.latent.0"], ours["param.latent.0"])


def test_python_goes_on_with_a_run_of_the_command_but_not_the_other_way_round(
    edit: Callable[..., int],
    prior: UNetPrior,
    image_file: Path,
    tmp_path: Path,
    pressed: Callable[[int], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert edit(save_path=tmp_path / "whole") == 0
    with pressed(2):
        assert edit() == 130
    edit_in_folder(LatentImage.open(image_file, prior), prior, *PROMPTS, tmp_path / "out", CONFIG, resume=True)
    assert ends(tmp_path / "out") == ends(tmp_path / "whole")
    assert edit(resume=True) == 0  # it is the command's run still
    edit_in_folder(LatentImage.open(image_file, prior), prior, *PROMPTS, tmp_path / "python", CONFIG)
    capsys.readouterr()
    assert main(["image", "--resume", str(tmp_path / "python")]) == 2
    assert "holds a run of a Python program, not of cpds image" in capsys.readouterr().err


def test_the_preset_is_the_representations_own(
    plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, Plain.preset, CONFIG)
    for name, config in {"named": None, "given": CONFIG}.items():
        edit_in_folder(plain(), prior, *PROMPTS, tmp_path / name, config)
    assert ends(tmp_path / "named") == ends(tmp_path / "given")


# ---- what it writes, and when


class Writes(At):
    """At the end writes a file of its own, and notes what else is there by then."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def finished(self, state: EditState) -> None:
        self.there = {p.name for p in self.folder.iterdir()}
        (self.folder / "own.txt").write_text("whole")


def test_a_finished_run_holds_the_callbacks_file_as_well(
    plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path
) -> None:
    own = Writes(tmp_path)
    state = edit_in_folder(plain(), prior, *PROMPTS, tmp_path, CONFIG, callbacks=[own])
    assert {p.name for p in tmp_path.iterdir()} == FILES | {"own.txt"}
    assert own.steps == state.step == 3
    assert "result.png" not in own.there


class Written(Plain):
    """With a file format of its own."""

    suffix = "ply"

    def export(self) -> bytes:
        return str(float(self.parts["one"].detach().sum())).encode()


def test_the_options_of_a_run(plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path) -> None:
    exported = Written(randn(0, 1, 4, 8, 8), prior, **{k: v.detach() for k, v in plain().parts.items()})
    saved: list[int] = []
    checkpoint = tmp_path / "checkpoint.safetensors"
    watch = At(4, lambda: saved.append(int(load_file(checkpoint)["step"])))
    options = RunOptions(checkpoint_every=3, export_every=2, frames=2)
    edit_in_folder(
        exported, prior, *PROMPTS, tmp_path, replace(LEARNED, polish=0.0), callbacks=[watch], options=options
    )
    assert [p.name for p in sorted((tmp_path / "ply").iterdir())] == ["000002.ply", "000004.ply", "000006.ply"]
    assert [p.name for p in sorted((tmp_path / "frames").iterdir())] == ["000003.png", "000006.png"]
    assert (tmp_path / "result.ply").read_bytes() == exported.export() == (tmp_path / "ply/000006.ply").read_bytes()
    assert saved == [3]


@pytest.mark.parametrize("options", [{"checkpoint_every": 0}, {"export_every": -1}, {"frames": 0}])
def test_options_are_checked(options: dict[str, int]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=f"{name} must be >= .*, got {value}"):
        RunOptions(**options)


def test_the_source_that_is_shown_may_be_another(plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path) -> None:
    size = plain().preview().shape[:1:-1]
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path, CONFIG, source=Image.new("RGB", size, "red"))
    with Image.open(tmp_path / "before_after.png") as shown:
        assert shown.getpixel((0, 0)) == (255, 0, 0)


# ---- stopped and resumed


@pytest.mark.parametrize("step", [1, 3, 5])  # before and after the selector learns
def test_killed_by_an_exception_and_resumed(
    plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path, step: int
) -> None:
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "whole", LEARNED)
    options, out, kill = RunOptions(checkpoint_every=2), tmp_path / "out", At(step, raise_killed)
    with pytest.raises(Killed):
        edit_in_folder(plain(), prior, *PROMPTS, out, LEARNED, callbacks=[kill], options=options)
    rest = At()
    state = edit_in_folder(plain(), prior, *PROMPTS, out, LEARNED, resume=True, callbacks=[rest])
    assert rest.steps == 6 - step // 2 * 2
    assert state.step == 6
    assert ends(out) == ends(tmp_path / "whole")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_and_resumed(
    plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "whole", LEARNED)
    before, send = signal.getsignal(sent), At(3, lambda: signal.raise_signal(sent))
    with pytest.raises(EditStopped) as stop:
        edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "out", LEARNED, callbacks=[send])
    assert (stop.value.step, stop.value.exit_code, stop.value.finished) == (3, code, False)
    assert signal.getsignal(sent) == before
    assert not (tmp_path / "out/result.png").exists()
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "out", LEARNED, resume=True, callbacks=[rest := At()])
    assert rest.steps == 3
    assert ends(tmp_path / "out") == ends(tmp_path / "whole")


def test_stopped_by_the_program_and_resumed(plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path) -> None:
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "whole", LEARNED)
    steps = At()
    options = RunOptions(checkpoint_every=100, stop=lambda: steps.steps == 3)
    with pytest.raises(EditStopped) as stop:
        edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "out", LEARNED, callbacks=[steps], options=options)
    assert (stop.value.step, stop.value.finished) == (3, False)
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "out", LEARNED, resume=True, callbacks=[rest := At()])
    assert rest.steps == 3  # from the step where it was stopped, not from a checkpoint before
    assert ends(tmp_path / "out") == ends(tmp_path / "whole")


PROGRAM = """
import signal, sys
import torch
from test_cpds_session import LEARNED, PROMPTS, At, thing
from cpds import edit_in_folder, load_prior
torch.set_num_threads(1)
made = thing()
made.prior = load_prior(sys.argv[1], device="cpu")
send = At(3, lambda: signal.raise_signal(int(sys.argv[3])))
edit_in_folder(made, made.prior, *PROMPTS, sys.argv[2], LEARNED, callbacks=[send])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(("name", "rest"), [("SIGTERM", 3), ("SIGKILL", 6)])
def test_a_program_that_was_killed_is_resumed_by_another(
    plain: Callable[[], Plain], prior: UNetPrior, tiny_folder: Path, tmp_path: Path, name: str, rest: int
) -> None:
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "whole", LEARNED)
    here, sent = Path(__file__).parent, signal.Signals[name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(tiny_folder), str(tmp_path / "out"), str(int(sent))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == (-sent if name == "SIGKILL" else 1), done.stderr
    assert ("stopped after step 3: resume the run in " in done.stderr) == (name == "SIGTERM")
    watch = At()
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "out", LEARNED, resume=True, callbacks=[watch])
    assert watch.steps == rest  # a KILL leaves the checkpoint of the start
    assert ends(tmp_path / "out") == ends(tmp_path / "whole")


def test_a_finished_run_is_loaded_and_nothing_is_written(
    plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path
) -> None:
    first = edit_in_folder(plain(), prior, *PROMPTS, tmp_path, CONFIG)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    again = edit_in_folder(plain(), prior, *PROMPTS, tmp_path, CONFIG, resume=True, callbacks=[watch := At()])
    assert watch.steps == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    ours, theirs = first.tensors(), again.tensors()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours.keys() | theirs.keys())


def test_resume_of_what_was_not_begun_begins_it(plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path) -> None:
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "one", CONFIG)
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "two", CONFIG, resume=True)
    assert ends(tmp_path / "one") == ends(tmp_path / "two")


def test_a_run_is_made_longer(plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path) -> None:
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path, CONFIG)
    longer = replace(CONFIG, num_inference_steps=5)
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path, longer, resume=True, callbacks=[watch := At()])
    assert watch.steps == 2
    assert edit_in_folder(plain(), prior, *PROMPTS, tmp_path, CONFIG, resume=True).step == 5  # it stays so long


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": replace(CONFIG, seed=3)}, r"edit\.seed was 0, is now 3"),
        ({"config": replace(CONFIG, lr=None)}, r"edit\.lr was 20\.0, is now None"),
        ({"prompt": "a pig"}, "prompt was 'a cat', is now 'a pig'"),
        ({"target_prompt": "a pig"}, "target_prompt was 'a dog', is now 'a pig'"),
        ({"representation": Plain(randn(7, 1, 4, 8, 8))}, r"source\.source is another one"),
    ],
)
def test_changed_settings_are_refused(
    plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {"prompt": PROMPTS[0], "target_prompt": PROMPTS[1], "config": CONFIG}
    edit_in_folder(plain(), prior, folder=tmp_path, **given)
    before = snapshot(tmp_path)
    given |= {"representation": plain()} | changes
    given["representation"].prior = prior
    with pytest.raises(InputError, match=rf"cannot resume .* with changed settings \({words}\)"):
        edit_in_folder(prior=prior, folder=tmp_path, resume=True, **given)
    assert snapshot(tmp_path) == before


def test_a_taken_folder_is_refused(plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path) -> None:
    (tmp_path / "result.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"already holds result\.png: resume what is there, or choose another folder"):
        edit_in_folder(plain(), prior, *PROMPTS, tmp_path, CONFIG)
    assert snapshot(tmp_path).keys() == {"result.png"}


def test_a_full_disk_is_reported_with_the_remedy(
    plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill() -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(InputError, match=r"No space left on device\): make room and resume the run in .*out$"):
        edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "out", CONFIG, callbacks=[At(2, fill)])
    monkeypatch.undo()
    assert edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "out", CONFIG, resume=True).step == 3


# ---- parts of one's own


class Mine(RandomPatches):
    """A selector from outside, made as the package makes its own."""

    def __init__(self, **_: Any) -> None:
        super().__init__()


class Other(Mine):
    """Another one."""


first_objective, second_objective = OBJECTIVES["pds"], OBJECTIVES["dds"]
SGD, ADAM = partial(torch.optim.SGD, momentum=0.5), torch.optim.Adam


def adamw(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups)


@dataclass(frozen=True)
class Own:
    """Two of a kind, and what a run remembers of the first."""

    one: dict[str, Any]
    other: dict[str, Any]
    remembered: dict[str, str]
    field: str


def through(path: str) -> dict[str, Any]:
    return {"config": replace(CONFIG, guidance=replace(CONFIG.guidance, method=path))}


def chosen(path: str) -> dict[str, Any]:
    return {"config": replace(CONFIG, guidance=replace(CONFIG.guidance, patch_selector=path))}


OWN = {
    "an objective": Own(
        {"parts": OwnParts(Objective(sds, OBJECTIVES["sds"].branches))},
        {"parts": OwnParts(Objective(dds, OBJECTIVES["dds"].branches))},
        {"objective": "cpds.objectives.distillation:sds"},
        "parts.objective",
    ),
    "a selector": Own(
        {"parts": OwnParts(selectors=[Mine()])},
        {"parts": OwnParts(selectors=[Other()])},
        {"selectors": "test_cpds_session:Mine"},
        "parts.selectors",
    ),
    "an optimizer": Own(
        {"parts": OwnParts(optimizer=ADAM)},
        {"parts": OwnParts(optimizer=adamw)},
        {"optimizer": "torch.optim.adam:Adam"},
        "parts.optimizer",
    ),
    "an objective's path": Own(
        through("test_cpds_session:first_objective"),
        through("test_cpds_session:second_objective"),
        {},
        "edit.guidance.method",
    ),
    "a selector's path": Own(
        chosen("test_cpds_session:Mine"), chosen("test_cpds_session:Other"), {}, "edit.guidance.patch_selector"
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_parts_of_ones_own_are_remembered(
    plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path, name: str
) -> None:
    own, out = OWN[name], tmp_path / "out"
    common: dict[str, Any] = {"config": CONFIG}
    beginning: dict[str, Any] = {"callbacks": [At(2, raise_killed)], "options": RunOptions(checkpoint_every=1)}
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "whole", **common | own.one)
    with pytest.raises(Killed):
        edit_in_folder(plain(), prior, *PROMPTS, out, **common | own.one | beginning)
    assert json.loads((out / "config.json").read_text())["parts"] == own.remembered
    for another in (own.other, {}):
        with pytest.raises(InputError, match=rf"changed settings \({own.field} was "):
            edit_in_folder(plain(), prior, *PROMPTS, out, resume=True, **common | another)
    edit_in_folder(plain(), prior, *PROMPTS, out, resume=True, **common | own.one)
    assert ends(out) == ends(tmp_path / "whole")


def test_an_optimizer_of_ones_own_optimizes(plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path) -> None:
    for name, parts in {"own": OwnParts(optimizer=SGD), "plain": None}.items():
        edit_in_folder(plain(), prior, *PROMPTS, tmp_path / name, replace(CONFIG, lr=0.5), parts=parts)
    ours, theirs = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("own", "plain"))
    assert "optimizer.0.momentum_buffer" in ours
    assert not torch.equal(ours["param.one.0"], theirs["param.one.0"])


def test_no_selectors_are_none_of_ones_own(plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path) -> None:
    config = EditConfig(GuidanceConfig(n_patches=4), 1)
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path, config, parts=OwnParts(selectors=[]))
    assert json.loads((tmp_path / "config.json").read_text())["parts"] == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (OwnParts(Objective(dds, OBJECTIVES["dds"].branches)), OwnParts(OBJECTIVES["cds"])),  # with contrast
        (OwnParts(optimizer=SGD), OwnParts(optimizer=partial(torch.optim.SGD, momentum=0.9))),
    ],
)
def test_what_shares_a_name_is_told_apart(
    plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path, one: OwnParts, other: OwnParts
) -> None:
    edit_in_folder(plain(), prior, *PROMPTS, tmp_path, CONFIG, parts=one)
    with pytest.raises(InputError, match=r"changed settings \(parts\."):
        edit_in_folder(plain(), prior, *PROMPTS, tmp_path, CONFIG, parts=other, resume=True)


def test_parts_without_a_name_of_their_own(plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path) -> None:
    nameless = OwnParts(optimizer=lambda groups: torch.optim.SGD(groups))
    with pytest.raises(InputError, match=r"a run folder cannot remember .*<lambda> of test_cpds_session"):
        edit_in_folder(plain(), prior, *PROMPTS, tmp_path / "out", CONFIG, parts=nameless)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ["png", ".json", "b/lobs", "GIF"])
def test_suffixes_that_would_write_over_a_runs_files(
    plain: Callable[[], Plain], prior: UNetPrior, tmp_path: Path, suffix: str
) -> None:
    made: Any = plain()
    made.suffix, made.export = suffix, lambda: b""
    with pytest.raises(InputError, match="suffix must be letters and digits, without a dot, and not gif or png, got"):
        edit_in_folder(made, prior, *PROMPTS, tmp_path / "out", CONFIG)


class Noted(Plain):
    """With a file format of its own."""

    suffix = "notes"

    def export(self) -> bytes:
        return b"notes"


@pytest.mark.parametrize("there", ["result.notes", "notes/000002.notes"])
def test_files_of_ones_own_format_are_left_alone(prior: UNetPrior, tmp_path: Path, there: str) -> None:
    file = tmp_path / "out" / there
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    before = snapshot(tmp_path / "out")
    with pytest.raises(InputError, match=r"already holds .*notes: resume what is there, or choose another folder"):
        edit_in_folder(Noted(randn(0, 1, 4, 8, 8), prior), prior, *PROMPTS, tmp_path / "out", CONFIG)
    after = snapshot(tmp_path / "out")
    assert before == {name: digest for name, digest in after.items() if name in before}
    assert after.keys() - before.keys() <= {".lock"}


def test_an_export_that_is_no_bytes(prior: UNetPrior, tmp_path: Path) -> None:
    made: Any = Noted(randn(0, 1, 4, 8, 8), prior)
    made.export = lambda: "notes"
    with pytest.raises(InputError, match=r"export gave a str: it must give the bytes of a \.notes file"):
        edit_in_folder(made, prior, *PROMPTS, tmp_path / "out", CONFIG)
    assert not list((tmp_path / "out").glob("*.part"))


def test_what_is_no_representation_in_a_folder(prior: UNetPrior, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    nothing: Any = object()
    with pytest.raises(InputError, match="the representation, of type object, lacks"):
        edit_in_folder(nothing, prior, *PROMPTS, tmp_path / "out")
    config: Any = "cpds"
    with pytest.raises(InputError, match=r"the config is of type str: give an EditConfig, such as PRESETS\['cpds'\]"):
        edit_in_folder(LatentImage(randn(0, 1, 3, 32, 32).sigmoid(), prior), prior, *PROMPTS, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
