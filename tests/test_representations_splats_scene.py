"""A splat scene under edit: views, units, what is saved, and an edit that goes on where it was stopped."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Recorder
from splat_scenes import ball, ring, same, scene
from torch import Tensor

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit, run, start
from cpds.errors import InputError
from cpds.guidance_scale import settled
from cpds.presets import PRESETS
from cpds.priors.unet import UNetPrior
from cpds.representation import Exportable, Masked, Representation, Source
from representations.splats.config import GROUPS, SplatConfig
from representations.splats.ply import Gaussians, SplatFile
from representations.splats.rasterize import rasterization
from representations.splats.scene import LEARNING_RATES, SplatScene, extent

ADAM = EditConfig(GuidanceConfig("dds"), 6, "adam", 0.02)


def leaves(of: SplatScene) -> dict[str, list[Tensor]]:
    return {g.name: g.tensors for g in of.param_groups()}


def test_is_a_representation_with_the_groups_of_the_presets(prior: UNetPrior) -> None:
    made = scene(prior)
    for protocol in (Representation, Masked, Source, Exportable):
        assert isinstance(made, protocol)
    assert set(leaves(made)) == set(PRESETS["pds-splats-paper"].group_lrs) == set(GROUPS)
    state = start(made, prior, "a", "b", PRESETS["pds-splats-paper"])
    assert [len(g["params"]) for g in state.optimizer.param_groups] == [1, 2, 1, 1, 1]


def test_groups_bring_their_learning_rates(prior: UNetPrior) -> None:
    """The preset that the scene names has none of its own, so that they are what the optimizer takes."""
    state = start(scene(prior), prior, "a", "b")
    preset = PRESETS["cpds-splats"]
    assert state.config == replace(preset, guidance=settled(preset.guidance, prior))
    assert [g["lr"] for g in state.optimizer.param_groups] == [LEARNING_RATES[g] for g in GROUPS]


def test_views_have_the_priors_size(prior: UNetPrior) -> None:
    made = scene(prior)
    assert all(min(c.width, c.height) == prior.image_size for c in made.cameras)
    assert all(c.width % prior.size_multiple == c.height % prior.size_multiple == 0 for c in made.cameras)
    assert made.cameras[0].width > made.cameras[0].height
    assert made.render(0).shape == (1, 3, made.cameras[0].height, made.cameras[0].width)
    assert min(c.height for c in scene(prior, resolution=3 * prior.image_size).cameras) == 3 * prior.image_size


def test_renders_what_the_file_says(prior: UNetPrior) -> None:
    """Logits, logarithms and coefficients, by the rasterizer itself."""
    made, stored = scene(prior, background=(0.3, 0.6, 0.9)), ball()
    camera = made.cameras[1]
    render, alphas, _ = rasterization(
        stored.means,
        stored.quats,
        stored.scales.exp(),
        torch.sigmoid(stored.opacities[:, 0]),
        torch.cat([stored.dc[:, None], stored.rest], 1),
        camera.viewmat[None],
        camera.k[None],
        camera.width,
        camera.height,
        sh_degree=1,
    )
    wanted = (render + (1 - alphas) * torch.tensor([0.3, 0.6, 0.9])).clamp(0, 1)
    assert torch.allclose(made.render(1)[0].permute(1, 2, 0), wanted[0], atol=1e-6)


# ---- which view, when


def views(made: SplatScene, steps: int, seed: int = 0) -> list[int]:
    """Those of a run's first steps; the generator is one for the whole run, as others might pass it."""
    generator = torch.Generator().manual_seed(seed)
    return [made.sample_view(step, generator) for step in range(steps)]


def runs(found: list[int]) -> list[int]:
    """Lengths of runs of equal views."""
    ends = [i for i in range(1, len(found)) if found[i] != found[i - 1]]
    return [b - a for a, b in zip([0, *ends], [*ends, len(found)], strict=True)]


@pytest.mark.parametrize("every", [1, 4, 10])
def test_a_view_is_kept_for_some_steps(every: int, prior: UNetPrior) -> None:
    found = runs(views(scene(prior, view_every=every), 60))
    assert all(n % every == 0 for n in found)  # a view may come twice in a row, where the order begins anew


def test_every_view_comes_before_one_comes_again(prior: UNetPrior) -> None:
    found = views(scene(prior, view_every=1), 30)
    rounds = [found[i : i + 6] for i in range(0, 30, 6)]
    assert all(sorted(r) == list(range(6)) for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1  # shuffled


def test_a_view_depends_on_the_step_alone(prior: UNetPrior) -> None:
    made = scene(prior, view_every=4)
    generator = torch.Generator().manual_seed(5)
    assert views(made, 20)[13:] == [made.sample_view(step, generator) for step in range(13, 20)]


def test_the_source_does_not_follow_the_edit(prior: UNetPrior) -> None:
    made = scene(prior)
    assert torch.equal(made.render_source(1), made.render(1))
    for x in (x for tensors in leaves(made).values() for x in tensors):
        x.data += 0.3
    assert torch.equal(made.render_source(1), scene(prior).render(1))
    assert not made.render_source(1).requires_grad
    assert not torch.equal(made.render(1), made.render_source(1))


# ---- parameters, units, ranges


def test_gradients_reach_all_parameters(prior: UNetPrior) -> None:
    made = scene(prior)
    made.render(0).square().sum().backward()
    for name, tensors in leaves(made).items():
        assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in tensors), name


def test_positions_move_in_extents_and_harmonics_in_twentieths(prior: UNetPrior) -> None:
    near, far = ball(), ball()
    far = replace(far, means=100 * far.means, scales=far.scales + math.log(100))
    made = [SplatScene(SplatFile.of(g), ring(radius=r), prior, SplatConfig()) for g, r in ((near, 3.0), (far, 300.0))]
    for one in made:
        for x in leaves(one)["xyz"] + leaves(one)["color"]:
            x.data += 0.01
    moved = [one.gaussians() for one in made]
    assert torch.allclose(moved[1].means - far.means, 100 * (moved[0].means - near.means), rtol=1e-3)
    assert torch.allclose(moved[0].means - near.means, torch.tensor(0.01 * 1.1 * 3), rtol=1e-3)
    assert torch.allclose(moved[0].dc - near.dc, torch.tensor(0.01), rtol=1e-3)
    assert torch.allclose(moved[0].rest - near.rest, torch.tensor(0.01 / 20), rtol=1e-3)
    assert torch.allclose(made[0].render(0), made[1].render(0), atol=2e-3)


def test_extent_of_a_single_camera() -> None:
    assert extent(ring(1), ball().means) == pytest.approx(3, abs=0.5)
    assert extent(ring(4), ball().means) == pytest.approx(3.3)


def test_project_normalises_what_moved(prior: UNetPrior) -> None:
    made = scene(prior)
    (quats,) = leaves(made)["rotation"]
    before = made.render(0)
    made.project()
    assert same(made.gaussians(), ball())  # nothing moved: nothing changes
    quats.data[3] *= 1.5
    made.project()
    found = made.gaussians().quats
    assert float(found[3].norm()) == pytest.approx(1, abs=1e-6)
    assert torch.equal(found[4:], ball().quats[4:])
    assert torch.allclose(made.render(0), before, atol=1e-5)


@pytest.mark.parametrize("group", GROUPS)
def test_only_what_is_named_changes(group: Any, prior: UNetPrior) -> None:
    made = scene(prior, optimize=(group,))
    edit(made, prior, "a cat", "a dog", replace(ADAM, num_inference_steps=2))
    after, before = made.gaussians(), ball()
    changed = {f.name for f in fields(Gaussians) if not torch.equal(getattr(after, f.name), getattr(before, f.name))}
    wanted = {"xyz": {"means"}, "color": {"dc", "rest"}, "opacity": {"opacities"}, "scale": {"scales"}}
    assert changed == wanted.get(group, {"quats"})


# ---- edits


def stopped_and_resumed(prior: UNetPrior, **settings: Any) -> tuple[SplatScene, list[Any], SplatScene, list[Any]]:
    """An edit in one piece and its gradients, and one that takes up the first one's state after three steps."""
    unbroken, resumed = scene(prior, **settings), scene(prior, **settings)
    saved: dict[str, Tensor] = {}

    def note(state: Any, result: Any) -> Tensor:
        if state.step == 3:
            saved.update({k: v.clone() for k, v in state.tensors().items()})
        return result.gradient

    first, second = Recorder(note), Recorder(lambda state, result: result.gradient)
    run(start(unbroken, prior, "a cat", "a dog", ADAM), [first])
    state = start(resumed, prior, "a cat", "a dog", ADAM)
    state.load(saved)
    run(state, [second])
    return unbroken, first.notes, resumed, second.notes


@pytest.mark.parametrize("settings", [{"view_every": 4}, {"region": (0.1, 0.0, -0.1, 0.4)}])
def test_an_edit_goes_on_as_if_it_had_not_been_stopped(settings: dict[str, Any], prior: UNetPrior) -> None:
    """Stopped in the middle of a view, the run takes that view up again."""
    unbroken, gradients, resumed, rest = stopped_and_resumed(prior, **settings)
    assert len(rest) == 3
    assert all(torch.equal(a, b) for a, b in zip(gradients[3:], rest, strict=True))
    assert same(resumed.gaussians(), unbroken.gaussians())
    assert not same(unbroken.gaussians(), ball())


def test_what_is_not_edited_is_saved_as_it_was(prior: UNetPrior, tmp_path: Path) -> None:
    SplatFile.of(ball()).write(tmp_path / "in.ply", ball())
    made = SplatScene(SplatFile.read(tmp_path / "in.ply"), ring(), prior)
    made.save(tmp_path / "out.ply")
    assert (tmp_path / "out.ply").read_bytes() == (tmp_path / "in.ply").read_bytes()
    made = SplatScene(SplatFile.read(tmp_path / "in.ply"), ring(), prior, SplatConfig(optimize=("color",)))
    edit(made, prior, "a cat", "a dog", ADAM)
    made.save(tmp_path / "out.ply")
    after = SplatFile.read(tmp_path / "out.ply").gaussians
    assert same(replace(after, dc=ball().dc, rest=ball().rest), ball())
    assert same(after, made.gaussians())


def test_from_files(prior: UNetPrior, tmp_path: Path) -> None:
    SplatFile.of(ball()).write(tmp_path / "a.ply", ball())
    pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3], [0, 0, 0, 1]]
    cameras = {"fl_x": 50, "w": 60, "h": 40, "frames": [{"transform_matrix": pose}]}
    (tmp_path / "transforms.json").write_text(json.dumps(cameras))
    axes = {"transform": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "scale": 0.5}
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(axes))
    made = SplatScene.open(tmp_path / "a.ply", tmp_path, prior)
    assert made.cameras[0].viewmat[2, 3] == 3
    closer = SplatScene.open(tmp_path / "a.ply", tmp_path, prior, None, tmp_path / "dataparser_transforms.json")
    assert closer.cameras[0].viewmat[2, 3] == 1.5


# ---- images and settings


def test_the_preview_shows_four_views_or_one(prior: UNetPrior) -> None:
    made = scene(prior)
    h, w = made.cameras[0].height, made.cameras[0].width
    sheet = made.preview()
    assert sheet.shape == (1, 3, 2 * h, 2 * w)
    assert torch.equal(sheet[..., :h, :w], made.render(0))
    assert torch.equal(sheet[..., h:, w:], made.render(5))
    assert not sheet.requires_grad
    assert scene(prior, shown=1).preview().shape == (1, 3, h, w)
    assert scene(prior, count=3).preview().shape == (1, 3, h, w)


def test_cameras_of_several_sizes_share_a_sheet(prior: UNetPrior) -> None:
    mixed = [*ring(4), *ring(4, 40, 60)]
    made = SplatScene(SplatFile.of(ball()), mixed, prior)
    assert made.cameras[0].width > made.cameras[0].height
    assert made.cameras[7].width < made.cameras[7].height
    assert made.preview().shape[-2:] == (2 * made.cameras[0].height, 2 * made.cameras[0].width)


def test_the_fingerprint_follows_the_source(prior: UNetPrior) -> None:
    plain = scene(prior).fingerprint()
    assert all(isinstance(x, str) for x in (*plain, *plain.values()))
    assert scene(prior).fingerprint() == plain
    others = [
        scene(prior, view_every=3).fingerprint(),
        scene(prior, count=5).fingerprint(),
        SplatScene(SplatFile.of(ball(41)), ring(), prior).fingerprint(),
    ]
    assert len({tuple(x.items()) for x in (plain, *others)}) == 4
    edited = scene(prior)
    leaves(edited)["color"][0].data += 1
    assert edited.fingerprint() == plain


def test_the_british_color_is_accepted() -> None:
    assert SplatConfig(optimize=("colour", "xyz")) == SplatConfig(optimize=("color", "xyz"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimize": ()}, "optimize must name some of"),
        ({"optimize": ("xyz", "shape")}, r"optimize must name some of xyz, color, .*, got \('xyz', 'shape'\)"),
        ({"view_every": 0}, "view_every must be >= 1, got 0"),
        ({"background": (0.0, 0.5, 1.5)}, "background must be three numbers"),
        ({"resolution": 8}, "resolution must be >= 16 px, got 8"),
        ({"shown": 3}, "shown must be one of 1, 4, got 3"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # outside of the suite nothing else checks types
    with pytest.raises(InputError, match=message):
        SplatConfig(**settings)


def test_scenes_that_no_camera_sees(prior: UNetPrior) -> None:
    file = SplatFile.of(replace(ball(), means=ball().means + torch.tensor([0.0, 500.0, 0.0])))
    with pytest.raises(InputError, match=r"none of the 6 cameras sees a gaussian: .*dataparser_transforms.json too"):
        SplatScene(file, ring(), prior)
    with pytest.raises(InputError, match="no camera"):
        SplatScene(SplatFile.of(ball()), [], prior)
