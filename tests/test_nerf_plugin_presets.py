"""Presets of ns-train: what they set, and what they leave."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from scenes import configured

from cpds.errors import InputError
from cpds.presets import METHODS
from nerf_plugin.presets import SCENE_PRESETS, apply_preset


def chosen(method: str, preset: str, **changes: Any) -> Any:
    config = configured(method, None, Path(), **changes)
    apply_preset(config, preset)
    apply_preset(config, preset)  # as ns-train checks settings twice
    return config


def rates(config: Any) -> dict[str, tuple[float, float | None]]:
    found = config.optimizers.items()
    return {k: (v["optimizer"].lr, v["scheduler"] and v["scheduler"].lr_final) for k, v in found}


def check_published(config: Any, guidance_scale: float) -> None:
    """The numbers of PDS (Koo 2024) that NeRFs and splats share."""
    found = config.pipeline.guidance
    assert (found.method, found.default_guidance) == ("pds", (guidance_scale, None))
    assert (found.t_min, found.t_max) == (0.02, 0.98)
    assert (found.w_identity, found.w_proximity, found.normalize_gradient) == (1.0, 0.0, False)
    assert (config.max_num_iterations, config.pipeline.view_every) == (30_000, 10)


def test_the_published_setting_of_nerfs() -> None:
    config = chosen("cpds", "pds-nerf-paper")
    check_published(config, 100.0)
    assert rates(config) == dict.fromkeys(("proposal_networks", "fields"), (1e-2, 1e-3))


def test_the_published_setting_of_splats() -> None:
    config = chosen("cpds_splat", "pds-splats-paper")
    check_published(config, 100.0)
    wanted = {"means": 1.6e-4, "features_dc": 2.5e-3, "features_rest": 1.25e-4, "opacities": 0.05}
    assert rates(config) == {k: (v, None) for k, v in (wanted | {"scales": 0.005, "quats": 0.001}).items()}


def test_what_is_given_stays() -> None:
    plain = configured("cpds", None, Path())
    asked = replace(plain.pipeline.guidance, guidance_scale=33.0)
    changes = {"max_num_iterations": 77, "pipeline__guidance": asked, "optimizers__fields__optimizer__lr": 0.5}
    config = chosen("cpds", "pds-nerf-paper", **changes)
    assert (config.pipeline.guidance.method, config.pipeline.guidance.guidance_scale) == ("pds", 33.0)
    assert config.max_num_iterations == 77
    assert rates(config) == {"proposal_networks": (1e-2, 1e-3), "fields": (0.5, 3e-4)}


FIELD = dict.fromkeys(("proposal_networks", "fields"), (3e-3, 3e-4))
SPLATS = {
    "means": (5e-4, 2.5e-5),
    "features_dc": (0.04, 2e-3),
    "features_rest": (2e-3, 1e-4),
    "opacities": (0.02, 1e-3),
    "scales": (3e-3, 1.5e-4),
    "quats": (1.5e-3, 7.5e-5),
}


@pytest.mark.parametrize(
    ("method", "preset", "w_proximity", "wanted"),
    [("cpds", "cpds-nerf", 1.5, FIELD), ("cpds_splat", "cpds-splats", 5.0, SPLATS)],
)
def test_what_a_method_does_by_default(method: str, preset: str, w_proximity: float, wanted: Any) -> None:
    for config in (configured(method, None, Path()), chosen(method, preset)):
        found = config.pipeline.guidance
        assert (found.method, found.default_guidance, found.w_identity) == ("cpds", (7.5, None), 0.03)
        assert found.w_cut == 1.0
        assert (found.patch_selector, found.selector_every, found.n_patches) == ("learned", 4, 64)
        assert (found.w_proximity, found.normalize_gradient) == (w_proximity, True)
        assert (config.max_num_iterations, config.pipeline.view_every) == (300, 1)
        assert rates(config) == wanted


@pytest.mark.parametrize(("method", "suffix"), [("cpds", "nerf"), ("cpds_splat", "splats")])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_each_guidance_has_its_preset(method: str, suffix: str, name: str) -> None:
    config, default = chosen(method, f"{name}-{suffix}"), configured(method, None, Path())
    assert config.pipeline.guidance.method == name
    assert rates(config) == rates(default)
    assert config.max_num_iterations == default.max_num_iterations


@pytest.mark.parametrize(("method", "name"), [("cpds", "pds-splats-paper"), ("cpds_splat", "pds"), ("cpds", "")])
def test_presets_that_are_not_there(method: str, name: str) -> None:
    with pytest.raises(InputError) as stop:
        chosen(method, name)
    known = ", ".join(SCENE_PRESETS[method.replace("_", "-")])
    assert str(stop.value) == f"there is no preset {name!r} for {method.replace('_', '-')}: take one of {known}"
