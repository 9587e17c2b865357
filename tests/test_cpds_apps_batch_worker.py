"""Workers: their results are those of the commands, to the byte or to rounding, and what fails harms no other row."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import SHORT, write_manifest
from PIL import Image
from test_cpds_apps_batch_manifest import SVG
from test_cpds_apps_cli_splats import write_cameras, write_scene

from cpds.apps.batch.executor import Outcome, Ready, Refused, Setup
from cpds.apps.batch.manifest import read_manifest
from cpds.apps.batch.worker import EditWorker
from cpds.apps.cli.main import main
from cpds.errors import InputError
from cpds.priors.options import PriorOptions

PROMPTS = {"prompt": "a cat", "target_prompt": "a dog"}
Do = Callable[..., list[Outcome]]


@pytest.fixture
def do(tiny_folder: Path, tmp_path: Path) -> Do:
    """Edit rows at once by a worker; its results are in tmp_path/results."""
    worker = EditWorker(Setup(str(tiny_folder), PriorOptions(), tmp_path / "results"), "cpu")
    ready = worker.load()
    assert isinstance(ready, Ready)
    assert ready.device == "cpu"

    def do(*rows: dict[str, Any]) -> list[Outcome]:
        return worker.edit(read_manifest(write_manifest(tmp_path / "manifest.jsonl", rows)))

    return do


def by_command(tiny_folder: Path, folder: Path, command: str, needs: Sequence[object], own: dict[str, Any]) -> Path:
    """The run folder of a row's edit by its command."""
    out = folder / f"alone-{len(list(folder.iterdir()))}"
    argv = [command, *map(str, needs), "--prompt", "a cat", "--trg_prompt", own.pop("target_prompt", "a dog")]
    for name, value in own.items():
        argv += [f"--{name}", *str(value).split()]
    assert main([*argv, "--prior", str(tiny_folder), "--device", "cpu", "--save_path", str(out)]) == 0
    return out


def clear(source: Path, to: Path) -> None:
    """A copy whose left quarter is transparent."""
    with Image.open(source) as image:
        layer = image.convert("RGBA")
    layer.paste((0, 0, 0, 0), (0, 0, 10, 28))
    layer.save(to)


@pytest.mark.parametrize("own", [{}, {"mask": "mask.png", "seed": 3, "method": "dds"}, {"source": "clear.png"}])
def test_an_image_alone_is_that_of_cpds_image_to_the_byte(
    do: Do, tiny_folder: Path, tmp_path: Path, image_file: Path, own: dict[str, Any]
) -> None:
    half = Image.new("L", (40, 28), 0)
    half.paste(255, (0, 0, 20, 28))
    half.save(tmp_path / "mask.png")
    clear(image_file, tmp_path / "clear.png")
    settings = {"source": "cat.png"} | SHORT | own
    (outcome,) = do({**PROMPTS, **settings, "output": "deep/er.png"})
    assert outcome.files == ("deep/er.png",)
    assert outcome.error is None
    source = tmp_path / settings.pop("source")
    if "mask" in settings:
        settings["mask"] = tmp_path / settings["mask"]
    alone = by_command(tiny_folder, tmp_path, "image", ["--img_path", source], settings)
    assert (tmp_path / "results/deep/er.png").read_bytes() == (alone / "result.png").read_bytes()
    assert any("keeps its transparency" in note for note in outcome.notes) == (source.name == "clear.png")


def test_images_edited_at_once_are_those_of_cpds_image_to_rounding(
    do: Do, tiny_folder: Path, tmp_path: Path, image_file: Path
) -> None:
    """The same values but for the last bits of sums, whose order depends on the batch: one level of 255 at most."""
    Image.effect_noise((40, 28), 90).convert("RGB").save(tmp_path / "noise.png")
    clear(image_file, tmp_path / "clear.png")
    targets = {"cat.png": "a dog", "noise.png": "a red car", "clear.png": "a pig"}
    outcomes = do(*({**PROMPTS, **SHORT, "source": s, "target_prompt": t} for s, t in targets.items()))
    assert [o.error for o in outcomes] == [None] * 3
    for outcome, (source, target) in zip(outcomes, targets.items(), strict=True):
        settings = {**SHORT, "target_prompt": target}
        alone = by_command(tiny_folder, tmp_path, "image", ["--img_path", tmp_path / source], settings)
        files = (tmp_path / "results" / outcome.files[0], alone / "result.png", tmp_path / source)
        together, single, before = (np.asarray(Image.open(f).convert("RGBA")).astype(int) for f in files)
        assert np.abs(together - single).max() <= 1
        assert np.abs(together - before).max() > 8  # it was edited


def test_a_drawing_is_that_of_cpds_svg(do: Do, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.svg").write_text(SVG)
    settings = {"num_inference_steps": 2, "n_patches": 8, "style": "pixelart"}
    (outcome,) = do({**PROMPTS, **settings, "source": "c.svg", "id": "c"})
    assert outcome.files == ("c.svg", "c.png")
    alone = by_command(tiny_folder, tmp_path, "svg", ["--svg_path", tmp_path / "c.svg"], settings)
    assert (tmp_path / "results/c.svg").read_bytes() == (alone / "result.svg").read_bytes()
    assert (tmp_path / "results/c.png").read_bytes() == (alone / "result.png").read_bytes()


def test_a_scene_is_that_of_cpds_splats(do: Do, tiny_folder: Path, tmp_path: Path) -> None:
    write_scene(tmp_path / "scene.ply")
    write_cameras(tmp_path / "transforms.json")
    settings = {"num_inference_steps": 2, "n_patches": 8, "view_every": 2}
    (outcome,) = do({**PROMPTS, **settings, "source": "scene.ply", "cameras": "transforms.json", "id": "s"})
    assert outcome.files == ("s.ply", "s.png")
    needs = [tmp_path / "scene.ply", "--cameras", tmp_path / "transforms.json"]
    alone = by_command(tiny_folder, tmp_path, "splats", needs, settings)
    assert (tmp_path / "results/s.ply").read_bytes() == (alone / "result.ply").read_bytes()


def test_a_row_that_fails_spoils_no_other_of_its_batch(
    do: Do, tmp_path: Path, image_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**PROMPTS, **SHORT, "source": "cat.png", "id": name} for name in ("a", "b")]
    plain = do(*rows)
    good = (tmp_path / "results/a.png").read_bytes()

    from cpds.priors.unet import UNetPrior

    embed = UNetPrior.embed

    def not_a_pig(self: UNetPrior, texts: Sequence[str]) -> Any:
        if "a pig" in texts:
            raise RuntimeError("no pigs\nplease")
        return embed(self, texts)

    monkeypatch.setattr(UNetPrior, "embed", not_a_pig)
    outcomes = do(rows[0], {**rows[1], "target_prompt": "a pig"})
    assert [o.error for o in outcomes] == [None, "RuntimeError: no pigs"]
    assert [o.files for o in outcomes] == [plain[0].files, ()]
    assert np.abs(np.asarray(Image.open(tmp_path / "results/a.png")).astype(int)).max() > 0
    assert abs(len(good) - (tmp_path / "results/a.png").stat().st_size) < 64


def test_an_edit_that_is_refused_is_told_from_one_that_fails(
    do: Do, image_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, refused in ((InputError("not so"), True), (RuntimeError("once"), False)):

        def fails(*_: Any, raised: Exception = error) -> Any:
            raise raised

        monkeypatch.setattr("cpds.apps.batch.worker.edited", fails)
        (outcome,) = do({**PROMPTS, **SHORT, "source": "cat.png"})
        assert outcome.refused is refused


def test_an_edit_that_diverges_says_so(do: Do, tmp_path: Path, image_file: Path) -> None:
    (outcome,) = do({**PROMPTS, **SHORT, "source": "cat.png", "lr": 1e31})
    assert "gave NaN or infinite values" in (outcome.error or "")
    assert not (tmp_path / "results").exists()


def test_a_prior_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = EditWorker(Setup(str(tmp_path / "empty"), PriorOptions(), tmp_path), "cpu").load()
    assert isinstance(answer, Refused)
    assert "has no model_index.json" in answer.reason
    answer = EditWorker(Setup(None, PriorOptions(), tmp_path), "cuda:99").load()
    assert isinstance(answer, Refused)
    assert "device 'cuda:99' is not usable here" in answer.reason
