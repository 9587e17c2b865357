"""The programs of docs/extending.md, run as they stand there: parts of an edit from outside of the package."""

import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import cpds
from cpds import EditConfig, GuidanceConfig, InputError, OwnParts, PatchSelector, Prior, Representation, edit_in_folder
from cpds.images import open_image, resized
from cpds.presets import PRESETS
from cpds.priors.unet import UNetPrior
from cpds.selection.base import Cells

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S)
MODULES = {m[1]: block for block in BLOCKS if (m := re.match(r"# (\w+)\.py\n", block))}
PROGRAMS = [block for block in BLOCKS if not re.match(r"# \w+\.py\n", block)]
PROMPTS = ("a cat", "a dog")


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the document's modules and cat.png, which programs are run in."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    shutil.copy(ROOT / "cpds/assets/demo/cat.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


def made(name: str, thing: str) -> Any:
    """Something of one of the document's modules."""
    return getattr(importlib.import_module(name), thing)


@pytest.fixture
def pixels(beside: Path) -> Any:
    """The document's Pixels of a small image."""
    image = resized(open_image(beside / "cat.png"), (32, 32))
    return lambda: made("pixels", "Pixels")(image)


@pytest.mark.parametrize("name", MODULES)
def test_an_example_is_short(name: str) -> None:
    assert len(MODULES[name].strip().split("\n")) <= 40


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_the_programs_run(beside: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """With the presets' steps cut short."""
    short = {name: replace(preset, num_inference_steps=2) for name, preset in PRESETS.items()}
    monkeypatch.setattr("cpds.editor.PRESETS", short)
    exec(compile(PROGRAMS[number], f"docs/extending.md, program {number + 1}", "exec"), {})


@pytest.mark.parametrize("kind", ["Pixels", "Siren"])
def test_an_edit_is_resumed_to_the_same_end(beside: Path, prior: UNetPrior, pixels: Any, kind: str) -> None:
    config = EditConfig(GuidanceConfig("cpds", n_patches=4, patch_selector="learned", selector_every=2), 5, "adam")

    def fresh() -> Any:
        return pixels() if kind == "Pixels" else made("siren", "Siren")(32)

    class Stop:
        def started(self, state: Any) -> None: ...
        def finished(self, state: Any) -> None: ...
        def stepped(self, state: Any, result: Any) -> None:
            if state.step == 3:
                raise ZeroDivisionError

    assert isinstance(fresh(), Representation)
    options = cpds.RunOptions(checkpoint_every=1)
    edit_in_folder(fresh(), prior, *PROMPTS, "unbroken", config)
    with pytest.raises(ZeroDivisionError):
        edit_in_folder(fresh(), prior, *PROMPTS, "broken", config, callbacks=[Stop()], options=options)
    assert not Path("broken/result.png").exists()
    state = edit_in_folder(fresh(), prior, *PROMPTS, "broken", config, resume=True)
    assert state.step == 5
    assert Path("broken/result.png").read_bytes() == Path("unbroken/result.png").read_bytes()
    assert Path("broken/metrics.jsonl").read_text() == Path("unbroken/metrics.jsonl").read_text()
    first = fresh().preview()
    assert float((state.representation.preview() - first).abs().max()) > 1e-3


def test_a_masked_and_exported_one(beside: Path, prior: UNetPrior) -> None:
    image = resized(open_image(beside / "cat.png"), (32, 32))
    ends = {}
    for name in ("Pixels", "Poster"):
        thing = made(name.lower() if name == "Poster" else "pixels", name)(image)
        config = EditConfig(GuidanceConfig("dds", guidance_scale=30.0, normalize_gradient=True), 10, "adam")
        options = cpds.RunOptions(export_every=5)
        edit_in_folder(thing, prior, *PROMPTS, name, config, options=options)
        ends[name] = (thing.preview() - image)[..., 16:].abs().mean()
    assert float(ends["Poster"]) < 0.5 * float(ends["Pixels"])
    exported = torch.tensor(json.loads(Path("Poster/result.json").read_text()))
    torch.testing.assert_close(exported, thing.preview())
    assert [file.name for file in sorted(Path("Poster/json").iterdir())] == ["000005.json", "000010.json"]


def test_an_objective_by_name_and_as_an_object(beside: Path, prior: UNetPrior, pixels: Any) -> None:
    objective = made("classifier_score", "objective")
    named = EditConfig(GuidanceConfig("classifier_score:objective"), 3, "adam")
    by_name = edit_in_folder(pixels(), prior, *PROMPTS, "name", named)
    plain = replace(named, guidance=GuidanceConfig("cpds"))
    by_object = edit_in_folder(pixels(), prior, *PROMPTS, "object", plain, parts=OwnParts(objective))
    assert torch.equal(by_name.representation.preview(), by_object.representation.preview())
    rows = [json.loads(line) for line in Path("name/metrics.jsonl").read_text().splitlines()]
    assert [row["samples"] for row in rows] == [2, 2, 2]
    with pytest.raises(InputError, match=r"changed settings \(parts.objective was 'classifier_score:direction'"):
        edit_in_folder(pixels(), prior, *PROMPTS, "object", plain, resume=True)


def test_a_selector_by_name_and_as_an_object(beside: Path, prior: UNetPrior, pixels: Any) -> None:
    selector = made("dissimilar", "Dissimilar")()
    assert isinstance(selector, PatchSelector)
    named = EditConfig(GuidanceConfig("cpds", n_patches=4, patch_selector="dissimilar:Dissimilar"), 3, "adam")
    by_name = edit_in_folder(pixels(), prior, *PROMPTS, "name", named)
    parts = OwnParts(selectors=[selector])
    plain = replace(named, guidance=replace(named.guidance, patch_selector="random"))
    by_object = edit_in_folder(pixels(), prior, *PROMPTS, "object", plain, parts=parts)
    by_chance = edit_in_folder(pixels(), prior, *PROMPTS, "chance", plain)
    ends = [state.representation.preview() for state in (by_name, by_object, by_chance)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    with pytest.raises(InputError, match=r"changed settings \(parts.selectors was 'dissimilar:Dissimilar'"):
        edit_in_folder(pixels(), prior, *PROMPTS, "object", plain, resume=True)


def test_the_documents_selector_takes_what_little_resembles(beside: Path) -> None:
    twins = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0]] * 5 + [[0, 1.0, 0]] + [[0, 0, 1.0]] * 5), dim=-1)
    selector = made("dissimilar", "Dissimilar")(noise=0.01)
    assert selector.select(Cells(twins, twins, (1, 11)), 1, torch.Generator()).tolist() == [5]


def test_a_prior_of_ones_own_keeps_the_contract(beside: Path) -> None:
    from diffusers import DDPMScheduler, UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    torch.manual_seed(0)
    unet = UNet2DModel(sample_size=32, block_out_channels=(32,), num_class_embeds=3, **blocks)
    prior = made("pixel_prior", "PixelPrior")(unet, ["", "cat", "dog"], DDPMScheduler())
    assert isinstance(prior, Prior)
    pixels = made("pixels", "Pixels")(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    edit_in_folder(pixels, prior, "cat", "dog", "run", EditConfig(GuidanceConfig("pds"), 2, "adam"))
    assert Path("run/result.png").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "nowhere:objective"}, "method nowhere:objective cannot be imported"),
        ({"method": "classifier_score:direction"}, "is of type function: it must be of type Objective"),
        ({"patch_selector": "dissimilar:nothing"}, "patch_selector dissimilar:nothing cannot be imported"),
        ({"patch_selector": "classifier_score:objective"}, "it must be callable"),
        ({"patch_selector": "builtins:complex"}, "cannot be made with width, seed and device"),
        ({"patch_selector": "collections:OrderedDict"}, "makes a OrderedDict, which is no PatchSelector"),
    ],
)
def test_what_is_not_such_a_part(
    beside: Path, prior: UNetPrior, pixels: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        cpds.edit(pixels(), prior, *PROMPTS, EditConfig(GuidanceConfig(**settings), 1))


def test_images_that_a_prior_cannot_take(beside: Path, prior: UNetPrior) -> None:
    odd = made("pixels", "Pixels")(torch.rand(1, 3, 30, 32))
    with pytest.raises(InputError, match="32x30 px cannot be encoded: render at multiples of 8 px"):
        cpds.edit(odd, prior, *PROMPTS, EditConfig(GuidanceConfig("dds"), 1))
