"""The scene as a run found it, also after other edits and interruptions."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from scenes import TRAINING, same, scene_state, train

from nerf_plugin.checkpoints import checkpoints, open_run
from nerf_plugin.pipeline import CpdsPipeline


def test_an_edited_scene_can_be_edited_again(edit_scene: Callable[..., Any], tmp_path: Path) -> None:
    """From what it is now, with other prompts, and steps that are counted on."""
    once = edit_scene("cpds_splat")
    twice = edit_scene(
        "cpds_splat", out=tmp_path / "twice", load_dir=once.checkpoint_dir, pipeline__target_prompt="a pig"
    )
    assert twice.pipeline.run.first == max(checkpoints(once.checkpoint_dir)) + 1
    for view in TRAINING:
        assert (twice.pipeline.source_image(view) - once.pipeline.render_eval(view)).abs().max() < 1 / 254


@pytest.mark.parametrize("kind", ["cpds", "cpds_splat"])
def test_sources_are_rendered_from_the_base_scene_when_first_needed(
    kind: str, edit_scene: Callable[..., Any], monkeypatch: Any, tmp_path: Path
) -> None:  # fmt: skip
    found: list[list[str]] = []
    step = CpdsPipeline.get_train_loss_dict

    def after(self: Any, **number: int) -> Any:
        result = step(self, **number)
        found.append(sorted(f.stem for f in (self.run.folder / "source").glob("*.png")))
        return result

    monkeypatch.setattr(CpdsPipeline, "get_train_loss_dict", after)
    trainer = edit_scene(kind, max_num_iterations=3)
    assert [len(names) for names in found] == [1, 2, 3]
    eager = edit_scene(kind, max_num_iterations=1, out=tmp_path / "fresh")
    monkeypatch.undo()
    with eager.pipeline.base.restored():
        wanted = [eager.pipeline.render_eval(view) for view in TRAINING]
    rounding = 0.51 / 255
    for view in TRAINING:  # of the third view too, which two steps had passed
        assert (trainer.pipeline.source_image(view) - wanted[view]).abs().max() < rounding
        assert (trainer.pipeline.render_eval(view) - wanted[view]).abs().max() > rounding  # the steps did something


def test_a_run_whose_sources_are_gone_goes_on_from_the_base_scene(
    edit_scene: Callable[..., Any], base_scenes: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:  # fmt: skip
    base = shutil.copytree(base_scenes["cpds_splat"].parent, tmp_path / "base") / base_scenes["cpds_splat"].name
    unbroken = edit_scene("cpds_splat", load_dir=base, out=tmp_path / "unbroken", max_num_iterations=4)
    common = {"max_num_iterations": 4, "steps_per_save": 1, "save_only_latest_checkpoint": False}
    part = edit_scene("cpds_splat", load_dir=base, out=tmp_path / "part", **common)
    first, *_, last = checkpoints(part.checkpoint_dir)
    for step, file in checkpoints(part.checkpoint_dir).items():
        if step > first:
            file.unlink()
    shutil.rmtree(part.base_dir / "source")
    again = train(open_run(part.base_dir).config)
    assert same(scene_state(unbroken), scene_state(again))
    checkpoints(part.checkpoint_dir)[last].unlink()
    shutil.rmtree(part.base_dir / "source")
    shutil.rmtree(base)
    with pytest.raises(SystemExit):
        train(open_run(part.base_dir).config)
    assert "is gone, and the run needs views of it" in capsys.readouterr().err
