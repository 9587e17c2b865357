"""Boxes and spheres in a scene: what they hold, which rays meet them, and what an edit may change there."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from nerfstudio.field_components.field_heads import FieldHeadNames

from cpds.errors import InputError
from nerf_plugin.rays import confine_field
from nerf_plugin.region import Region, extent
from nerf_plugin.splats import confine_gaussians

BOX = Region((-0.5, -0.2, 0.1, 0.4, 0.6, 0.9))
SWAPPED = Region((0.4, -0.2, 0.9, -0.5, 0.6, 0.1))  # other corners of it
BALL = Region((0.1, -0.2, 0.3, 0.5))


@pytest.mark.parametrize("region", [BOX, SWAPPED, BALL])
def test_rays_enter_where_points_along_them_begin_to_be_inside(region: Region) -> None:
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(torch.randn(400, 3, generator=generator, dtype=torch.float64), dim=1)
    directions[:40] = torch.eye(3, dtype=torch.float64).repeat(14, 1)[:40]  # along the axes
    t = torch.linspace(0, 6, 6001, dtype=torch.float64)
    inside = region.contains(origins[:, None] + t[:, None] * directions[:, None])
    wanted = torch.where(inside.any(1), t[inside.int().argmax(1)], torch.inf)
    found = region.entered(origins, directions)
    clear = inside.sum(1) != 1  # a corner that a millimetre is too coarse for
    assert 20 < int(found.isfinite().sum()) < 380
    assert int((found == 0).sum()) > 0  # from inside
    apart = torch.where(wanted.isfinite() & found.isfinite(), found - wanted, 0.0)
    assert float(apart.abs().max()) < 2e-3
    short = (wanted.isfinite() != found.isfinite()) & clear
    assert int(short.sum()) <= 2  # grazed


@pytest.mark.parametrize(
    "numbers",
    [
        (0.0, 0.0, 0.0, 1.0, 0.0, 1.0),  # a flat box
        (0.0, 0.0, 0.0, 0.0),  # a sphere without a radius
        (0.0, 0.0, float("nan"), 1.0),
        (0.0, 0.0, 0.0, 1.0, 2.0),  # neither
        (),
    ],
)
def test_numbers_that_are_no_region(numbers: tuple[float, ...]) -> None:
    with pytest.raises(InputError) as stop:
        Region(numbers)
    assert f"two corners x y z x y z that differ in all three, got {numbers}" in str(stop.value)


def test_regions_have_names() -> None:
    assert str(BOX) == "box -0.5 -0.2 0.1 0.4 0.6 0.9"
    assert str(BALL) == "sphere 0.1 -0.2 0.3 0.5"


class Field:
    """Density and colour that are parameters, a row for each ray and a column for each sample."""

    def __init__(self) -> None:
        self.density, self.rgb = (torch.ones(2, 4, n, requires_grad=True) for n in (1, 3))

    def forward(self, ray_samples: Any) -> dict[FieldHeadNames, torch.Tensor]:
        return {FieldHeadNames.DENSITY: self.density, FieldHeadNames.RGB: self.rgb}


@pytest.mark.parametrize("editable", [None, torch.tensor([[[True]], [[False]]])])
def test_editable_rays_have_gradient_inside_of_the_region_alone(editable: torch.Tensor | None) -> None:
    field = Field()
    confine_field(field, Region((-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)))
    places = torch.tensor([-2.0, -0.5, 0.5, 2.0])[None, :, None].expand(2, 4, 3)
    samples: Any = SimpleNamespace(
        frustums=SimpleNamespace(get_positions=lambda: places), metadata={"editable": editable}
    )
    samples.metadata = {} if editable is None else samples.metadata
    sum(x.sum() for x in field.forward(samples).values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    kept = [[1.0] * 4] * 2 if editable is None else [[0.0, 1, 1, 0], [1, 1, 1, 1]]
    for x in (field.density, field.rgb):
        assert x.grad is not None
        assert torch.equal(x.grad, torch.tensor(kept)[..., None].expand_as(x))


def test_gaussians_outside_stay_to_the_last_bit() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before, inside = x.detach().clone(), torch.arange(50) < 20
    confine_gaussians([x], inside)
    adam = torch.optim.Adam([x], lr=0.1, eps=1e-15)
    for _ in range(5):
        adam.zero_grad()
        x.square().sum().backward()
        adam.step()
    assert torch.equal(x[20:], before[20:])
    assert bool((x[:20] != before[:20]).all())


def test_the_extent_leaves_out_what_lies_far_away() -> None:
    points = torch.linspace(0, 1, 101)[:, None].expand(101, 3).clone()
    points[-1] = 1000
    assert extent(points) == "x 0.05 to 0.95, y 0.05 to 0.95, z 0.05 to 0.95"
