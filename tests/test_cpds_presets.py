"""Published presets: their numbers, and one step of each on images against the published code's formula."""

from dataclasses import asdict, fields, replace
from typing import Any

import pytest
import torch
from conftest import Plain, randn
from test_cpds_guidance import SOURCE, TARGET, naive_gradient
from test_cpds_priors_flow import GaussianFlow
from torch import Tensor

from cpds.apps.cli.main import main
from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import edit
from cpds.guidance import Guidance
from cpds.guidance_scale import settled
from cpds.personalize.config import DreamBoothConfig
from cpds.presets import NOTES, PDS_REFINE_NERF, PDS_REFINE_SPLATS, PRESETS
from cpds.priors.unet import UNetPrior

# What the papers and their code say, in their own numbers; what they do not know (ours) is off.
OFF = {
    **{"w_proximity": 0, "normalize_gradient": False, "timesteps": "uniform", "negative_prompt": "", "w_direction": 1},
    **{"method_options": {}, "source_guidance_scale": None, "guidance_schedule": "constant", "guidance_parallel": 1},
    **{
        "guidance_rescale": 0,
        "true_guidance_scale": 1,
        "localize": False,
        "min_direction": 0,
        "reestimate_noise": False,
        "patch_share": 1,
        "patch_loss": "infonce",
        "polish": 0,
        "stop_below": 0,
        "redraw_steps": 0,
        "redraw_lr": 0.16,
    },
}
SGD = {"optimizer": "sgd", "lr_scaling": "area", "num_inference_steps": 200, "lr_decay": 1, "group_lrs": {}}
MIDDLE = {"guidance_scale": 7.5, "t_min": 0.05, "t_max": 0.95}
CONTRAST = {"w_cut": 3, "patch_size": (1, 2), "n_patches": 256, "temperature": 0.07, "patch_selector": "random"}
POSTERIOR = {"method": "pds", "stride": 2, "w_identity": 1, "t_min": 0.02, "t_max": 0.98, "lr_scaling": "none"}
SPLATS = {"xyz": 1.6e-4, "color": 2.5e-3, "opacity": 0.05, "scale": 0.005, "rotation": 1e-3}

SAMPLER = {
    **{"optimizer": "sgd", "lr": 1, "lr_decay": 1, "lr_scaling": "none", "group_lrs": {}},
    **{"timesteps": "descending", "num_inference_steps": 33},
}
FLOWEDIT = {"source_guidance_scale": 3.5, "t_min": 0.002, "t_max": 0.653}

PUBLISHED: dict[str, dict[str, Any]] = {
    "dds-paper": {"method": "dds", "lr": 0.1, **SGD, **MIDDLE},
    "cds-paper": {"method": "cds", "lr": 0.1, **SGD, **MIDDLE, **CONTRAST},
    "cpds-reference": {"method": "cpds", "lr": 0.8, **SGD, **MIDDLE, **CONTRAST, "stride": 1},
    "pds-paper": {
        **POSTERIOR,
        **{"optimizer": "adamw", "lr": 0.1, "lr_decay": 1, "group_lrs": {}},
        **{"num_inference_steps": 500, "guidance_scale": 50},
    },
    "pds-nerf-paper": {
        **POSTERIOR,
        **{"optimizer": "adam", "lr": 1e-2, "lr_decay": 0.1, "group_lrs": {}},
        **{"num_inference_steps": 30_000, "guidance_scale": 100},
    },
    "pds-splats-paper": {
        **POSTERIOR,
        **{"optimizer": "adam", "lr_decay": 1, "group_lrs": SPLATS},  # lr is for groups that are not named
        **{"num_inference_steps": 30_000, "guidance_scale": 100},
    },
    "lusd-paper": {
        **{"method": "lusd", "num_inference_steps": 300, "t_min": 0.05, "t_max": 0.948, "group_lrs": {}},
        **{"optimizer": "sgd", "lr": 0.149, "lr_decay": 0.074, "lr_scaling": "area", "normalize_gradient": True},
        **{"localize": True, "min_direction": 0.01},
    },
    "flowedit-paper": {"method": "flowedit", "guidance_scale": 13.5, **SAMPLER, **FLOWEDIT},
    "flowalign-paper": {"method": "flowalign", "guidance_scale": 13.5, **SAMPLER, "t_min": 0.03, "t_max": 0.99},
    "dvrf-paper": {
        **{"method": "dvrf", "guidance_scale": 16.5, **SAMPLER, "num_inference_steps": 50},
        **{"source_guidance_scale": 6, "t_min": 0.02, "t_max": 0.99},
    },
    "pds-svg-paper": {
        **POSTERIOR,
        **{"optimizer": "adam", "lr": 0.01, "lr_decay": 1, "group_lrs": {"points": 0.8}},  # lr: colors
        **{"num_inference_steps": 1000, "guidance_scale": 100, "t_min": 0.1},
    },
}
DEFAULTS = {"default_guidance", "default_schedule"}  # which are shown as what they are the defaults of
SHAPES = {"guidance_interval", "guidance_table"}  # of schedules that no published preset has
TIMESTEPS = {"dds": (50, 950), "cds": (50, 950), "cpds": (50, 950), "pds": (20, 980), "pds-svg": (100, 980)}
TIMESTEPS |= {"lusd": (50, 948), "flowedit": (2, 653), "flowalign": (30, 990), "dvrf": (20, 990)}


def flat(config: EditConfig) -> dict[str, Any]:
    """Every setting by name, as a prior with classifier-free guidance takes it."""
    own = {k: v for k, v in asdict(config).items() if k != "guidance"}
    return own | asdict(settled(config.guidance, GaussianFlow()))


@pytest.mark.parametrize("name", [n for n in PRESETS if n.endswith(("-paper", "-reference"))])
def test_published_numbers(name: str) -> None:
    told = OFF | PUBLISHED[name]
    settings = flat(PRESETS[name])
    assert {k: settings[k] for k in told} == told


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_range_of_timesteps(prior: UNetPrior, name: str) -> None:
    guidance = Guidance(prior, SOURCE, TARGET, PRESETS[name].guidance, steps=1)
    low, high = TIMESTEPS["pds-svg" if name == "pds-svg-paper" else name.split("-")[0]]
    assert (guidance.levels.low, guidance.levels.high) == (low, high)


def test_published_refinement_and_personalisation() -> None:
    shared = {"denoising_steps": 20, "guidance_scale": 15, "skip": (0.8, 0.9), "every": 10}
    assert asdict(PDS_REFINE_NERF) == {"iterations": 15_000, **shared}
    assert asdict(PDS_REFINE_SPLATS) == {"iterations": 30_000, **shared}
    personal = DreamBoothConfig(prompt="a photo of sks dog", full=True)
    assert (personal.learning_rate, personal.steps, personal.class_images) == (5e-6, 800, 200)


def score_term(prior: UNetPrior, z_src: Tensor, z_tgt: Tensor, posterior: bool) -> Tensor:
    """What the public code multiplies z_tgt with, written out: the guided predictions' difference (DDS, CDS).

    With `posterior` the difference of the stochastic latents as CPDS's code computes it, from one x_t and one x_{t-1}
    for both halves: the edited latent's.
    """
    generator = torch.Generator().manual_seed(0)
    t = int(torch.randint(50, 951, (1,), generator=generator))
    eps = torch.randn(z_src.shape, generator=generator)
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = (1 - beta).cumprod(0)
    a, before, b = (float(x) for x in (alpha_bar[t], alpha_bar[t - 1], beta[t]))

    def guided(z: Tensor, prompt: str) -> Tensor:
        ids = prior.tokenizer([prompt, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
        noised = (a**0.5 * z + (1 - a) ** 0.5 * eps).expand(2, -1, -1, -1)
        cond, uncond = prior.unet(noised, t, prior.text_encoder(ids).last_hidden_state).sample.split(1)
        return uncond + 7.5 * (cond - uncond)

    source, target = guided(z_src, SOURCE), guided(z_tgt, TARGET)
    if not posterior:
        return target - source
    x_t, noise = a**0.5 * z_tgt + (1 - a) ** 0.5 * eps, randn(99, *z_src.shape)
    x_before = before**0.5 * z_tgt + (1 - before) ** 0.5 * noise
    sigma = ((1 - before) / (1 - a) * b) ** 0.5

    def stochastic(prediction: Tensor) -> Tensor:
        z = (x_t - (1 - a) ** 0.5 * prediction) / a**0.5
        mean = before**0.5 * b / (1 - a) * z + (1 - b) ** 0.5 * (1 - before) / (1 - a) * x_t
        return (x_before - mean) / sigma

    return stochastic(target) - stochastic(source)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 4, 8, 12)])
@pytest.mark.parametrize(
    ("name", "lr", "w_cut"),
    [
        ("dds-paper", 0.1, 0),
        ("cds-paper", 0.1, 3),
        ("cpds-reference", 0.8, 3),
    ],
)
def test_one_step_is_that_of_the_published_code(
    prior: UNetPrior, name: str, lr: float, w_cut: float, shape: tuple[int, ...]
) -> None:
    """z - lr (2000 / (h w) score + w_cut dCUT/dz); all patches are chosen, as the tiny prior has fewer than 256."""
    z_src = randn(0, *shape)
    z_tgt = z_src + 0.3 * randn(1, *shape)
    step = 2000 / (shape[2] * shape[3]) * score_term(prior, z_src, z_tgt, name == "cpds-reference")
    if w_cut:
        alone = GuidanceConfig("cds", w_direction=0.0, w_cut=1.0, n_patches=10_000)
        step = step + w_cut * naive_gradient(prior, alone, z_src, z_tgt)
    picture = Plain(z_src, latent=z_tgt)
    edit(picture, prior, SOURCE, TARGET, replace(PRESETS[name], num_inference_steps=1))
    moved = (picture.parts["latent"] - z_tgt).detach()
    assert float((moved + lr * step).norm()) <= 1e-3 * float(moved.norm())


@pytest.mark.parametrize("lr_scaling", ["none", "area"])
def test_the_proximity_loss_keeps_its_weight_under_area_scaling(prior: UNetPrior, lr_scaling: Any) -> None:
    """SGD moves by lr w_proximity dz / (1 + |dz|²)² more with the loss than without, however the score is scaled."""
    z_src, z_tgt = randn(0, 1, 4, 8, 8), randn(1, 1, 4, 8, 8)
    ends = []
    for w_proximity in (0.0, 2.0):
        picture = Plain(z_src, latent=z_tgt)
        guidance = GuidanceConfig("dds", w_proximity=w_proximity)
        edit(picture, prior, SOURCE, TARGET, EditConfig(guidance, 1, lr=0.1, lr_scaling=lr_scaling))
        ends.append(picture.parts["latent"].detach())
    dz = z_tgt - z_src
    expected = -0.1 * 2.0 * dz / (1 + dz.square().sum(1, keepdim=True)) ** 2
    torch.testing.assert_close(ends[1] - ends[0], expected, rtol=1e-3, atol=1e-5)


def test_a_preset_with_faults_says_so_where_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert NOTES.keys() <= PRESETS.keys()
    assert main(["presets"]) == 0
    lines = {line.split(":")[0].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert "faults" in NOTES["cpds-reference"]
    assert [name for name in lines if NOTES.get(name, "never") in lines[name]] == list(NOTES)


def test_every_setting_is_in_the_table_of_one_preset() -> None:
    """A new setting must be given a value in the published rows."""
    known = {k for row in PUBLISHED.values() for k in row} | OFF.keys() | {"seed", "selector_every", *SHAPES, *DEFAULTS}
    assert {f.name for c in (EditConfig, GuidanceConfig) for f in fields(c)} - {"guidance"} == known
