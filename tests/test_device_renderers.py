"""Documents and scenes rendered and edited on a labelled device: nothing is mixed, and how often the host waits."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Recorder, randn
from labelled_device import DEVICE, Ceiling, labelled_device
from PIL import Image
from safetensors.torch import load, save

from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import run, start
from cpds.priors.unet import UNetPrior
from cpds.state import EditState
from representations.cameras import Camera
from representations.splats.config import SplatConfig
from representations.splats.ply import Gaussians, SplatFile
from representations.splats.rasterize import rasterization
from representations.splats.scene import SplatScene
from svg.config import SvgConfig
from svg.document import Document
from svg.image import SvgImage

PAGE = b"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">
  <defs>
    <linearGradient id="sky"><stop stop-color="#123456"/><stop offset="1" stop-color="#fedcba" stop-opacity=".5"/>
    </linearGradient>
    <radialGradient id="sun"><stop stop-color="#ff0"/><stop offset="1" stop-color="#f00"/></radialGradient>
    <clipPath id="round"><circle cx="16" cy="16" r="15"/></clipPath>
  </defs>
  <rect width="32" height="32" fill="url(#sky)"/>
  <g clip-path="url(#round)" opacity=".9">
    <path d="M4 4C30 0 44 20 24 28S10 44 4 4Z" fill="url(#sun)" stroke="#333" stroke-width="2"/>
    <path d="M2 20 20 20 2 30 20 30Z" fill="#0a0" fill-rule="evenodd" fill-opacity=".7"/>
    <line x1="4" y1="28" x2="28" y2="26" stroke="#00f" stroke-width="3" stroke-dasharray="4 2"/>
    <ellipse cx="20" cy="10" rx="5" ry="3" stroke="#fff" stroke-linecap="round"/>
  </g>
</svg>
"""
SVG = EditConfig(GuidanceConfig("cpds", n_patches=8, patch_selector="learned", selector_every=1), 2, "adam")
SPLATS = replace(SVG, guidance=GuidanceConfig("pds"))
EVERYTHING: Any = ("points", "fills", "strokes", "widths", "opacities", "gradients")

Make = Callable[[UNetPrior], Any]


def svg(prior: UNetPrior, masked: bool = False, **settings: Any) -> SvgImage:
    held = torch.ones(1, 1, 16, 16)
    held[..., :5] = 0
    return SvgImage(Document.parse(PAGE), prior, SvgConfig(**settings), held if masked else None)


def splats(prior: UNetPrior, masks: list[Path] | None = None, **settings: Any) -> SplatScene:
    n = 30
    gaussians = Gaussians(
        *(0.4 * randn(0, n, 3), 2 * randn(1, n, 4), torch.full((n, 3), math.log(0.2)) + 0.3 * randn(2, n, 3)),
        *(randn(3, n, 1), randn(4, n, 3), 0.1 * randn(5, n, 3, 3)),
    )
    view = torch.eye(4)
    view[2, 3] = 3
    k = torch.tensor([[40.0, 0, 20], [0, 40.0, 16], [0, 0, 1]])
    cameras = [Camera("0.png", view, k, 40, 32), Camera("1.png", view + 0.1 * torch.eye(4)[3:].T, k, 40, 32)]
    return SplatScene(SplatFile.of(gaussians), cameras, prior, SplatConfig(**settings), masks or (), rasterization)


@pytest.fixture
def two_masks(tmp_path: Path) -> list[Path]:
    pixels = np.zeros((32, 40), np.uint8)
    pixels[8:, 10:] = 255
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for file in files:
        Image.fromarray(pixels).save(file)
    return files


def compared(prior: UNetPrior, device_prior: UNetPrior, make: Make, config: EditConfig) -> None:
    """An edit on the device mixes nothing, ends as on the CPU, goes on from a saved state there, and is exported."""
    plain = make(prior)
    run(start(plain, prior, "a cat", "a dog", config))
    with labelled_device() as record:
        edited, resumed = make(device_prior), make(device_prior)
        state = run(start(edited, device_prior, "a cat", "a dog", config))
        again = start(resumed, device_prior, "a cat", "a dog", config)
        again.load(load(save(state.tensors())))
        leaves = [x for shown in (edited, resumed) for group in shown.param_groups() for x in group.tensors]
        image = edited.render(view := edited.sample_view(0, torch.Generator()))
        assert {x.device for x in (*leaves, image)} == {DEVICE}
        assert resumed.export() == edited.export()
        assert edited.fingerprint() == plain.fingerprint()
        image = image.detach().cpu()
    assert record.faults() == ""
    torch.testing.assert_close(image, plain.render(view).detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("masked", "settings"),
    [
        (False, {"optimize": EVERYTHING}),
        (True, {"background": (0.2, 0.4, 0.6)}),
        (False, {"smoothness": 0.3, "coarse_steps": 1, "may_remove": True, "may_add": 2}),
    ],
)
def test_an_edit_of_a_document_mixes_no_devices(
    prior: UNetPrior, device_prior: UNetPrior, masked: bool, settings: dict[str, Any]
) -> None:
    compared(prior, device_prior, lambda p: svg(p, masked, **settings), SVG)


@pytest.mark.parametrize("settings", [{}, {"region": (-0.5, -0.5, -0.5, 0.5, 0.5, 0.5)}, {"masked": True}])
def test_an_edit_of_a_scene_mixes_no_devices(
    prior: UNetPrior, device_prior: UNetPrior, two_masks: list[Path], settings: dict[str, Any]
) -> None:
    masks = two_masks if settings.pop("masked", False) else None
    compared(prior, device_prior, lambda p: splats(p, masks, **settings), SPLATS)


GUIDANCE: Ceiling = {  # of DDS, as for images
    "synchronization": {"cpds/state.py": 1},
    "copy": {"cpds/objectives/base.py": 1},
}


def both(first: Ceiling, second: Ceiling) -> Ceiling:
    return {kind: {**first.get(kind, {}), **second.get(kind, {})} for kind in first}


@pytest.mark.parametrize(
    ("make", "preview", "step"),
    [
        (
            svg,
            {"synchronization": {"svg/": 31}, "copy": {"svg/": 2}},
            {"synchronization": {"svg/": 35}, "copy": {"svg/": 2}},
        ),
        (
            splats,
            {"synchronization": {"representations/": 3}, "copy": {}},
            {"synchronization": {"representations/": 3}, "copy": {}},
        ),
    ],
)
def test_a_view_waits_no_oftener_than_today(
    device_prior: UNetPrior, make: Make, preview: Ceiling, step: Ceiling
) -> None:
    """The ceilings are what this document and this scene cost today: lower them where you can."""
    with labelled_device() as record:
        shown = make(device_prior)
        config = EditConfig(GuidanceConfig("dds"), 4, "adam")
        state = start(shown, device_prior, "a cat", "a dog", config)

        def note(state: EditState, _result: object) -> None:
            if state.step > 2:  # when the sources of both cameras are there
                assert record.over(both(GUIDANCE, step)) == "", f"step {state.step}"
            record.clear()

        run(state, [Recorder(note)])
        assert shown.preview().device == DEVICE
    assert record.over(preview) == ""
