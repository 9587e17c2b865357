"""Regions: which gaussians an edit may change, and which regions are refused."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from splat_scenes import ball, ring, same, scene

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit
from cpds.errors import InputError
from cpds.priors.unet import UNetPrior
from representations.splats.config import SplatConfig
from representations.splats.ply import Gaussians, SplatFile
from representations.splats.scene import SplatScene

ADAM = EditConfig(GuidanceConfig("dds"), 6, "adam", 0.02)
SPHERE, BOX = (0.1, 0.0, -0.1, 0.4), (0.3, -0.5, 0.6, -0.4, 0.5, -0.2)


def contains(region: tuple[float, ...], point: list[float]) -> bool:
    """By the definition, one point at a time."""
    if len(region) == 4:
        return math.dist(point, region[:3]) <= region[3]
    return all(min(a, b) <= x <= max(a, b) for x, a, b in zip(point, region[:3], region[3:], strict=True))


@pytest.mark.parametrize("region", [SPHERE, BOX])
def test_gaussians_outside_a_region_stay_as_they_are(region: Any, prior: UNetPrior, tmp_path: Path) -> None:
    made = scene(prior, region=region)
    edit(made, prior, "a cat", "a dog", ADAM)
    made.save(tmp_path / "out.ply")
    after, before = SplatFile.read(tmp_path / "out.ply").gaussians, ball()
    within = torch.tensor([contains(region, p) for p in before.means.tolist()])
    assert 3 < int(within.sum()) < 37
    for name in (f.name for f in fields(Gaussians)):
        moved = (getattr(after, name) != getattr(before, name)).flatten(1).any(1)
        assert torch.equal(moved, within), name


def test_a_region_around_everything_is_none(prior: UNetPrior) -> None:
    everywhere, around = scene(prior), scene(prior, region=(0.0, 0.0, 0.0, 50.0))
    for made in (everywhere, around):
        edit(made, prior, "a cat", "a dog", ADAM)
    assert same(everywhere.gaussians(), around.gaussians())


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (
            (0.0, 0.0, 9.0, 1.0),
            r"no gaussian lies in the region .*: most of the scene is in x, y, z = -0\.\d+ ",
        ),
        ((1.0, 2.0, 3.0), "region must be x y z and a radius > 0"),
        ((1.0, 2.0, 3.0, 0.0), "region must be"),
        ((1.0, 2.0, 3.0, math.nan), "region must be"),
        ((0.0, 0.0, 0.0, 1.0, 1.0, 0.0), "or two corners x y z x y z that differ in all three"),
    ],
)
def test_bad_regions(region: Any, message: str, prior: UNetPrior) -> None:
    with pytest.raises(InputError, match=message):
        scene(prior, region=region)


def test_a_region_that_no_camera_sees(prior: UNetPrior) -> None:
    stray = replace(ball(), means=torch.cat([ball().means[1:], torch.tensor([[0.0, 500.0, 0.0]])]))
    with pytest.raises(InputError, match="none of the 6 cameras sees the region"):
        SplatScene(SplatFile.of(stray), ring(), prior, SplatConfig(region=(0.0, 500.0, 0.0, 1.0)))


def test_the_fingerprint_follows_the_region(prior: UNetPrior) -> None:
    found = [json.dumps(scene(prior, region=region).fingerprint()) for region in (None, SPHERE, BOX)]
    assert len(set(found)) == 3
