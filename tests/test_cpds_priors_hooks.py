"""Taps of Stable Diffusion 1.5 and 2.1 at full size, on the meta device: shapes without weights."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import randn
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn

from cpds.priors.base import Conditioning
from cpds.priors.hooks import self_attentions
from cpds.priors.unet import UNetPrior

META = torch.device("meta")


@dataclass(frozen=True)
class Published:
    """What is published of a model."""

    unet: dict[str, Any]
    prediction_type: str
    image_size: int
    parameters: int


SD15 = Published({"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}, "epsilon", 512, 859_520_964)
SD21 = Published(
    {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "sample_size": 96,
    },
    "v_prediction",
    768,
    865_910_724,
)


def full_size(model: Published) -> UNetPrior:
    with META:
        unet = UNet2DConditionModel(block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, **model.unet)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            scaling_factor=0.18215,
        )
        text_encoder = nn.Linear(1, 1)  # takes no part
    scheduler = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", prediction_type=model.prediction_type)
    parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": None, "scheduler": scheduler}
    return UNetPrior(SimpleNamespace(**parts, components=parts), META, "full size")


@pytest.fixture(scope="module", params=[SD15, SD21], ids=["sd15", "sd21"])
def model(request: pytest.FixtureRequest) -> tuple[Published, UNetPrior]:
    return request.param, full_size(request.param)


def test_facts_are_the_published_ones(model: tuple[Published, UNetPrior]) -> None:
    published, prior = model
    assert (prior.image_size, prior.parameters) == (published.image_size, published.parameters)
    assert prior.size_multiple == 64  # 8 px a latent, halved three times in the UNet
    assert prior.feature_width == 1280
    assert prior.schedule.parameterization == published.prediction_type


def test_taps_are_the_nine_self_attentions_on_the_way_up(model: tuple[Published, UNetPrior]) -> None:
    _, prior = model
    names = {module: name for name, module in prior.unet.named_modules()}
    taps = self_attentions(prior.unet)
    assert [names[tap.attention] for tap in taps] == [
        f"up_blocks.{block}.attentions.{layer}.transformer_blocks.0.attn1" for block in (1, 2, 3) for layer in range(3)
    ]
    assert [names[tap.spatial] for tap in taps] == [
        f"up_blocks.{b}.attentions.{i}" for b in (1, 2, 3) for i in range(3)
    ]
    assert all(tap.attention.to_k.in_features == tap.attention.to_q.in_features for tap in taps)  # of themselves


@pytest.mark.parametrize("wide", [1, 2])
def test_tapped_features_are_laid_out_as_images(model: tuple[Published, UNetPrior], wide: int) -> None:
    """At the first scale above the lowest, its double and the latents' own."""
    published, prior = model
    images = torch.empty(2, 3, published.image_size, wide * published.image_size, device=META)
    latents = prior.encode(images)
    h, w = published.image_size // 8, wide * published.image_size // 8
    assert tuple(latents.shape) == (2, 4, h, w)
    text = Conditioning({"embeds": torch.empty(2, 77, published.unet["cross_attention_dim"], device=META)})
    got = prior.denoise(latents, torch.tensor([500, 500]), text, tap=2)
    assert tuple(got.eps.shape) == (2, 4, h, w)
    assert [tuple(f.shape) for f in got.features] == [
        *[(2, 1280, h // 4, w // 4)] * 3,
        *[(2, 640, h // 2, w // 2)] * 3,
        *[(2, 320, h, w)] * 3,
    ]


@pytest.mark.parametrize("tap", [1, 3])
def test_features_are_those_of_the_first_samples_and_hold_no_others(prior: UNetPrior, tap: int) -> None:
    x, text = randn(0, 3, 4, 8, 8), prior.embed(["a cat", "a dog", ""])
    t = torch.tensor([500, 500, 500])
    with torch.no_grad():
        every, some = (prior.denoise(x, t, text, tap=n) for n in (3, tap))
    assert torch.equal(every.eps, some.eps)
    for whole, part in zip(every.features, some.features, strict=True):
        assert torch.equal(whole[:tap], part)
        assert part.untyped_storage().nbytes() == part.nbytes
