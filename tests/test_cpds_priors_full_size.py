"""Families at their own size on the meta device: taps, shapes and sizes; and what `cpds priors` says of them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from cpds.apps.cli import priors
from cpds.apps.cli.main import main
from cpds.priors.base import Conditioning
from cpds.priors.diffusers_prior import DiffusersPrior
from cpds.priors.flux import Flux2Prior, FluxPrior
from cpds.priors.load import FAMILIES
from cpds.priors.transformer import PixArtPrior, SD3Prior
from cpds.priors.unet import SDXLPrior
from cpds.priors.z_image import ZImagePrior
from scripts.prior_sizes import MODELS, OUT, counted, on_meta

META = torch.device("meta")
FLOW, DDPM = FlowMatchEulerDiscreteScheduler(shift=3.0), DDIMScheduler()
# network, VAE, family, scheduler; latent channels and px a cell; modules tapped; features (d, rows, columns) of 1024 px
CASES: dict[str, tuple[str, type[DiffusersPrior], Any, tuple[int, int], list[str], list[tuple[int, ...]]]] = {
    "sdxl": (
        "sd-vae",
        SDXLPrior,
        DDPM,
        (4, 8),
        [
            *(f"up_blocks.0.attentions.{i}.transformer_blocks.9.attn1" for i in range(3)),
            *(f"up_blocks.1.attentions.{i}.transformer_blocks.1.attn1" for i in range(3)),
        ],
        [*[(1280, 32, 32)] * 3, *[(640, 64, 64)] * 3],
    ),
    "sd3.5-medium": (
        "vae-16",
        SD3Prior,
        FLOW,
        (16, 8),
        [f"transformer_blocks.{i}.attn" for i in (6, 8, 9, 11, 12, 14, 15, 17)],
        [(1536, 64, 64)] * 8,
    ),
    "flux-dev": (
        "vae-16",
        FluxPrior,
        FLOW,
        (16, 8),
        [
            *(f"transformer_blocks.{i}.attn" for i in (14, 18)),
            *(f"single_transformer_blocks.{i}.attn" for i in (3, 7, 11, 15, 19, 23)),
        ],
        [(3072, 64, 64)] * 8,
    ),
    "flux2-klein-4b": (
        "flux2-vae",
        Flux2Prior,
        FLOW,
        (128, 16),
        [f"single_transformer_blocks.{i}.attn" for i in (1, 3, 4, 6, 8, 10, 11, 13)],
        [(3072, 64, 64)] * 8,
    ),
    "pixart-sigma": (
        "sd-vae",
        PixArtPrior,
        DDPM,
        (4, 8),
        [f"transformer_blocks.{i}.attn1" for i in (7, 9, 11, 13, 14, 16, 18, 20)],
        [(1152, 64, 64)] * 8,
    ),
    "z-image": (
        "vae-16",
        ZImagePrior,
        FLOW,
        (16, 8),
        [f"layers.{i}.attention" for i in (7, 9, 11, 13, 16, 18, 20, 22)],
        [(3840, 64, 64)] * 8,
    ),
}
TEXT: dict[str, dict[str, tuple[int, ...]]] = {
    "sdxl": {"embeds": (77, 2048), "pooled": (1280,)},
    "sd3.5-medium": {"embeds": (333, 4096), "pooled": (2048,)},
    "flux-dev": {"embeds": (512, 4096), "pooled": (768,)},
    "flux2-klein-4b": {"embeds": (512, 7680), "ids": (512, 4)},
    "pixart-sigma": {"embeds": (300, 4096), "mask": (300,)},
    "z-image": {"embeds": (512, 2560)},
}


@pytest.fixture(scope="module", params=CASES)
def full(request: pytest.FixtureRequest) -> tuple[str, Any]:
    vae, family, scheduler, *_ = CASES[request.param]
    parts = {family.network: on_meta(request.param), "vae": on_meta(vae), "scheduler": scheduler}
    pipeline: Any = SimpleNamespace(**parts, components=parts, default_sample_size=128)
    pipeline.config = SimpleNamespace(is_distilled=False)
    return request.param, family(pipeline, META, "full size")


def test_sizes_and_taps(full: tuple[str, Any]) -> None:
    name, prior = full
    _, _, _, (_, cell), taps, features = CASES[name]
    assert prior.image_size == 1024
    assert prior.size_multiple == (32 if name == "sdxl" else 16)
    assert cell in (prior.vae_factor, 2 * prior.vae_factor)
    names = {module: key for key, module in prior.net.named_modules()}
    assert [names[tap.attention] for tap in prior._taps] == taps
    assert prior.feature_width == max(d for d, _, _ in features)


def test_shapes_of_latents_and_features(full: tuple[str, Any]) -> None:
    """Of an image twice as wide as it is high, so that rows are not columns."""
    name, prior = full
    _, _, _, (channels, cell), _, features = CASES[name]
    z = prior.encode(torch.empty(1, 3, 1024, 2048, device=META))
    assert tuple(z.shape) == (1, channels, 1024 // cell, 2048 // cell)
    assert tuple(prior.decode(z).shape) == (1, 3, 1024, 2048)
    if name == "z-image":  # whose positions are looked up in a table that is made on the CPU
        return
    text = Conditioning({key: torch.empty(1, *shape, device=META) for key, shape in TEXT[name].items()})
    found = prior.denoise(z, torch.tensor([500]), text, tap=1)
    assert found.eps.shape == z.shape
    assert [tuple(f.shape[1:]) for f in found.features] == [(d, rows, 2 * columns) for d, rows, columns in features]


# ---- cpds priors


@pytest.mark.parametrize("config", ["sdxl", "flux-schnell", "z-image"])
def test_the_table_is_what_the_script_counts(config: str) -> None:
    rows = [row for row in json.loads(OUT.read_text()) if row["config"] == config]
    assert rows
    for row in rows:
        assert {key: row[key] for key in ("parameters", "largest_layer")} == counted(config)
    assert {row["name"] for row in json.loads(OUT.read_text())} == {model[0] for model in MODELS}


def test_every_family_is_listed() -> None:
    assert {row["pipeline"] for row in json.loads(OUT.read_text())} == FAMILIES.keys()


def test_known_counts() -> None:
    """As published: SDXL's UNet 2.6 billion parameters (Podell 2023), SD3.5 2.2 (MMDiT-X) and 8.1, FLUX.1 12."""
    rows = {row["config"]: row["parameters"] for row in json.loads(OUT.read_text())}
    for config, billions in {"sdxl": 2.6, "sd3.5-medium": 2.2, "sd3.5-large": 8.1, "flux-dev": 11.9}.items():
        assert rows[config] / 1e9 == pytest.approx(billions, abs=0.05)


def test_priors_lists_sizes_and_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"stabilityai--sdxl-turbo": "StableDiffusionXLPipeline", "me--mine": "FluxPipeline", "me--other": "Other"}
    for name, kind in kinds.items():
        folder = tmp_path / f"models--{name}/snapshots/{'0' * 40}"
        folder.mkdir(parents=True)
        (folder / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    (tmp_path / "models--me--other/snapshots/broken").mkdir()
    (tmp_path / "models--me--other/snapshots/broken/model_index.json").write_text("{")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert main(["priors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for row in json.loads(OUT.read_text()):
        (line,) = (line for line in lines if line.startswith(f"{row['name']} "))
        assert f"{row['parameters'] / 1e9:.2f}" in line
        assert f"{2 * (row['parameters'] + row['vae']) / 2**30:.1f}" in line
        assert (" yes " in line) == (row["name"] == "stabilityai/sdxl-turbo")
        assert ("gated" in line) == row["gated"]
    assert "Also in the local cache, of these families: me/mine (FluxPipeline)" in lines


def test_switches_make_weights_smaller() -> None:
    for row in json.loads(OUT.read_text()):
        plain, eight, four, offload = priors.gib(row)
        assert plain > eight > four > 0
        assert offload < plain
