"""Presets of ns-train: what they set, and what they leave."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from scenes import configured

from cpds.errors import InputError
from cpds.presets import PDS_NERF, PDS_SPLATS, PRESETS
from nerf_plugin.presets import SCENE_PRESETS, apply_preset


def chosen(method: str, preset: str, **changes: Any) -> Any:
    config = configured(method, None, Path(), **changes)
    apply_preset(config, preset)
    apply_preset(config, preset)  # as ns-train checks settings twice
    return config


def rates(config: Any) -> dict[str, tuple[float, float | None]]:
    found = config.optimizers.items()
    return {k: (v["optimizer"].lr, v["scheduler"] and v["scheduler"].lr_final) for k, v in found}


def test_the_published_setting_of_nerfs() -> None:
    config = chosen("cpds", "pds-nerf-paper")
    assert config.pipeline.guidance == PDS_NERF.guidance
    assert (config.max_num_iterations, config.pipeline.view_every) == (30_000, 10)
    assert rates(config) == dict.fromkeys(("proposal_networks", "fields"), (1e-2, 1e-3))


def test_the_published_setting_of_splats() -> None:
    config = chosen("cpds_splat", "pds-splats-paper")
    assert config.pipeline.guidance == PDS_SPLATS.guidance
    assert config.max_num_iterations == 30_000
    wanted = {"means": 1.6e-4, "features_dc": 2.5e-3, "features_rest": 1.25e-4, "opacities": 0.05}
    assert rates(config) == {k: (v, None) for k, v in (wanted | {"scales": 0.005, "quats": 0.001}).items()}


def test_what_is_given_stays() -> None:
    plain = configured("cpds", None, Path())
    asked = replace(plain.pipeline.guidance, guidance_scale=33.0)
    changes = {"max_num_iterations": 77, "pipeline__guidance": asked, "optimizers__fields__optimizer__lr": 0.5}
    config = chosen("cpds", "pds-nerf-paper", **changes)
    assert config.pipeline.guidance == replace(PDS_NERF.guidance, guidance_scale=33.0)
    assert config.max_num_iterations == 77
    assert rates(config) == {"proposal_networks": (1e-2, 1e-3), "fields": (0.5, 3e-4)}


@pytest.mark.parametrize("method", ["cpds", "cpds_splat"])
def test_the_first_is_what_a_method_does_without(method: str) -> None:
    first = next(iter(SCENE_PRESETS[method.replace("_", "-")]))
    config, plain = chosen(method, first), configured(method, None, Path())
    assert config == plain
    splats = PRESETS["cpds-splats"].guidance
    assert plain.pipeline.guidance == (replace(splats, w_proximity=1.5) if method == "cpds" else splats)


@pytest.mark.parametrize(("method", "name"), [("cpds", "pds-splats-paper"), ("cpds_splat", "pds"), ("cpds", "")])
def test_presets_that_are_not_there(method: str, name: str) -> None:
    with pytest.raises(InputError) as stop:
        chosen(method, name)
    known = ", ".join(SCENE_PRESETS[method.replace("_", "-")])
    assert str(stop.value) == f"there is no preset {name!r} for {method.replace('_', '-')}: take one of {known}"
