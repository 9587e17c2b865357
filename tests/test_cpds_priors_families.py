"""Every family of priors against its own diffusers pipeline: the same prompt, latents and denoising step."""

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randn
from PIL import Image
from safetensors.torch import load_file
from tiny_priors import BUILDERS, Family
from torch import Tensor

from cpds.apps.cli.main import main
from cpds.images import open_image
from cpds.objectives.table import OBJECTIVES
from cpds.presets import PRESETS
from cpds.priors.base import Conditioning
from cpds.priors.load import load_prior
from cpds.priors.options import PriorOptions
from representations.latent import LatentImage, LatentImageConfig

NAMES = list(BUILDERS)
FLOWS = ["sd3", "sd3-without-t5", "flux-dev", "flux-schnell", "flux2", "z-image"]
LARGE = [name for name in NAMES if name not in ("sd", "turbo")]
HEIGHT, WIDTH = 32, 48
SCALE = 3.5  # of FLUX.1 dev's own guidance
UNGUIDED = {"flux-dev": SCALE, "z-image": 0.0}  # the pipelines' guidance_scale at which they mix nothing; else 1
Get = Callable[[str], Family]


@pytest.fixture(params=NAMES)
def family(request: pytest.FixtureRequest, families: Get) -> Family:
    return families(request.param)


def noisy(family: Family, count: int = 1) -> Tensor:
    """Latents (count, c, h, w) of an image of HEIGHT x WIDTH px, pure noise."""
    shape = family.prior.encode(torch.zeros(1, 3, HEIGHT, WIDTH)).shape
    return randn(7, count, *shape[1:])


def packed(family: Family, x: Tensor) -> Tensor:
    """Latents as the pipeline takes them."""
    return family.pipeline._pack_latents(x, *x.shape) if family.name.startswith("flux-") else x


def unpacked(family: Family, found: Tensor) -> Tensor:
    """The latents that a pipeline gives for output_type latent, as we have them."""
    if family.name.startswith("flux-"):
        return family.pipeline._unpack_latents(found, HEIGHT, WIDTH, family.prior.vae_factor)
    return family.prior.normalized(found) if family.name == "flux2" else found


def timestep(family: Family) -> Tensor:
    """The one that the pipeline's last call has asked its network at, found by its noise level."""
    scheduler, schedule = family.pipeline.scheduler, family.prior.schedule
    if schedule.shift is None:
        return scheduler.timesteps[:1].long()
    s, shift = scheduler.sigmas[:1].double(), schedule.shift
    return len(schedule) * s / (shift - (shift - 1) * s) - 1


def conditioned(family: Family, prompts: list[str]) -> Conditioning:
    text = family.prior.embed(prompts)
    return text.at_scale(SCALE) if family.name == "flux-dev" else text


@pytest.mark.parametrize("prompt", ["a cat", "a longer text about two dogs"])
def test_denoise_is_the_pipelines_own_step(family: Family, prompt: str) -> None:
    """At a sigma between the scheduler's: v = (x - x_0) / sigma of its one step down to none."""
    x, prior = noisy(family), family.prior
    settings: dict[str, Any] = {"sigmas": [0.4321]} if family.name in FLOWS else {}
    if family.name == "turbo":
        return  # the networks of sd, whose Euler steps are in units of their own
    if family.name == "flux-schnell":
        settings["max_sequence_length"] = 256
    if family.name == "pixart":
        settings["use_resolution_binning"] = False
    found = family.pipeline(
        prompt=prompt,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=1,
        guidance_scale=UNGUIDED.get(family.name, 1.0),
        latents=packed(family, x),
        output_type="latent",
        **settings,
    )[0]
    t = timestep(family)
    if family.name in FLOWS:
        assert float(t) != round(float(t))
    eps = prior.denoise(x, t, conditioned(family, [prompt])).eps
    clean = prior.schedule.denoised(x, eps, t)
    torch.testing.assert_close(unpacked(family, found), clean, rtol=2e-4, atol=2e-4)


def test_latents_are_the_pipelines(family: Family) -> None:
    images = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    prior, pipeline = family.prior, family.pipeline
    with torch.no_grad():
        z = prior.encode(images)
        if family.name == "flux2":
            expected = pipeline._encode_vae_image(2 * images - 1, torch.Generator())
        else:
            mode, config = pipeline.vae.encode(2 * images - 1).latent_dist.mode(), pipeline.vae.config
            expected = (mode - (config.shift_factor or 0)) * config.scaling_factor
        torch.testing.assert_close(z, expected)
        raw = pipeline.vae.encode(2 * images - 1).latent_dist.mode()
        torch.testing.assert_close(prior.decode(z), (pipeline.vae.decode(raw).sample / 2 + 0.5).clamp(0, 1))


def encoded(family: Family, prompt: str) -> dict[str, Tensor]:
    """By the pipeline's public encode_prompt."""
    pipeline = family.pipeline
    with torch.no_grad():
        if family.name in ("sd", "turbo"):
            return {"embeds": pipeline.encode_prompt(prompt, torch.device("cpu"), 1, False)[0]}
        if family.name == "sdxl":  # whose unconditional prompt is what it guides away from without a negative one
            texts = pipeline.encode_prompt(prompt or "a cat", do_classifier_free_guidance=True)
            return dict(
                zip(("embeds", "pooled"), (texts[0], texts[2]) if prompt else (texts[1], texts[3]), strict=True)
            )
        if family.name.startswith("sd3"):
            texts = pipeline.encode_prompt(prompt, prompt, prompt)
            return {"embeds": texts[0], "pooled": texts[2]}
        if family.name.startswith("flux-"):
            longest = 512 if family.name == "flux-dev" else 256
            texts = pipeline.encode_prompt(prompt, prompt, max_sequence_length=longest)
            return {"embeds": texts[0], "pooled": texts[1]}
        if family.name == "flux2":
            return dict(zip(("embeds", "ids"), pipeline.encode_prompt(prompt), strict=True))
        if family.name == "pixart":
            return dict(zip(("embeds", "mask"), pipeline.encode_prompt(prompt)[:2], strict=True))
        (embeds,) = pipeline.encode_prompt(prompt)[0]
        return {"embeds": embeds[None], "length": torch.tensor([len(embeds)])}


@pytest.mark.parametrize("prompt", ["a cat", ""])
def test_embed_is_the_pipelines_encode_prompt(family: Family, prompt: str) -> None:
    got = family.prior.embed([prompt, "a pig"]).split([1, 1])[0]
    expected = encoded(family, prompt)
    assert got.tensors.keys() == expected.keys()
    for name, x in expected.items():
        mine = got[name][:, : x.shape[1]] if family.name == "z-image" and name == "embeds" else got[name]
        torch.testing.assert_close(mine, x)


def test_what_is_too_long_for_a_family_is_named(family: Family) -> None:
    """What stays reads as the whole; a chat model's prompt is cut with the template's end, which then comes back."""
    between = " " if family.name in ("sd", "turbo", "sdxl", "sd3-without-t5") else ""  # CLIP marks ends of words
    words = between.join(chr(97 + i % 26) for i in range(600))  # every letter is a token
    with pytest.warns(UserWarning, match="longer than the ") as caught:
        whole = family.prior.embed([words])
    (lost,) = re.findall("cut: '([a-z ]+)'$", str(caught[0].message))
    assert len(caught) == 1
    assert words.endswith(lost)
    kept = words.removesuffix(lost)
    assert len(kept.replace(" ", "")) == int(re.findall(r"the (\d+) tokens", str(caught[0].message))[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = family.prior.embed([kept])
    if family.name not in ("flux2", "z-image"):
        assert all(torch.equal(again[name], x) for name, x in whole.tensors.items())


@pytest.mark.parametrize("name", LARGE)
def test_text_encoders_come_for_new_prompts_alone(families: Get, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = families(name)
    prior: Any = load_prior(family.folder, device="cpu")
    assert all(getattr(prior.pipeline, part) is None for part in prior._source.text_encoders)
    first = prior.embed(["a cat", ""])
    with monkeypatch.context() as patch:
        patch.setattr(type(prior._source), "open", lambda *_, **__: pytest.fail("opened again"))
        again = prior.embed(["", "a cat", "a cat"])
    for key, x in first.tensors.items():
        assert torch.equal(again[key], x[[1, 0, 0]])
    kept: Any = load_prior(family.folder, device="cpu", options=PriorOptions(keep_text_encoders=True))
    assert kept.pipeline.text_encoder is not None
    assert all(torch.equal(kept.embed(["a cat", ""])[key], x) for key, x in first.tensors.items())


@pytest.mark.parametrize("tap", [0, 3])
def test_a_batch_is_its_rows(family: Family, tap: int) -> None:
    prompts, x = ["a cat", "a dog on a ball", ""], noisy(family, 3)
    t = torch.tensor([900, 500, 20])
    t = t if family.prior.schedule.shift is None else t + torch.tensor([0.25, 0.5, 0.125])
    every = family.prior.denoise(x, t, conditioned(family, prompts), tap=tap)
    for i, prompt in enumerate(prompts):
        one = family.prior.denoise(x[i : i + 1], t[i : i + 1], conditioned(family, [prompt]), tap=tap)
        torch.testing.assert_close(every.eps[i : i + 1], one.eps, rtol=1e-4, atol=1e-4)
        for a, b in zip(every.features, one.features, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, rtol=1e-4, atol=1e-4)


def test_reloading_gives_the_same_bits(family: Family) -> None:
    again, x, t = load_prior(family.folder, device="cpu"), noisy(family), torch.tensor([400])
    assert again.fingerprint == family.prior.fingerprint
    assert torch.equal(
        again.denoise(x, t, again.embed(["a cat"])).eps, family.prior.denoise(x, t, family.prior.embed(["a cat"])).eps
    )


def test_gradients_reach_the_latents_through_the_taps_alone(family: Family) -> None:
    x = noisy(family).requires_grad_()
    found = family.prior.denoise(x, torch.tensor([400]), conditioned(family, ["a cat"]), tap=1)
    assert not found.eps.requires_grad
    assert torch.is_grad_enabled()
    assert found.features
    for feature in found.features:
        assert feature.shape[1] <= family.prior.feature_width
        (gradient,) = torch.autograd.grad(feature.square().sum(), x, retain_graph=True)
        assert float(gradient.abs().min()) >= 0 < float(gradient.abs().max())
    assert not family.prior.denoise(x, torch.tensor([400]), conditioned(family, ["a cat"])).eps.requires_grad


@pytest.mark.parametrize("name", FLOWS)
def test_tapped_tokens_are_the_images(families: Get, name: str) -> None:
    """Row by row; behind the text's in FLUX's single blocks, before text and padding in Z-Image's."""
    family, outputs = families(name), []
    prior: Any = family.prior
    hooks = [tap.attention.register_forward_hook(lambda _m, _a, out: outputs.append(out)) for tap in prior._taps]
    x, text = noisy(family), conditioned(family, ["a cat"])
    found = prior.denoise(x, torch.tensor([400]), text, tap=1)
    for hook in hooks:
        hook.remove()
    rows, columns = x.shape[2] // prior.patch, x.shape[3] // prior.patch
    assert len(found.features) == len(outputs) == 2  # of four blocks
    for feature, output in zip(found.features, outputs, strict=True):
        tokens = output[0] if isinstance(output, tuple) else output
        behind = text["embeds"].shape[1] if tokens.shape[1] > rows * columns and name.startswith("flux") else 0
        assert tuple(feature.shape[2:]) == (rows, columns)
        for i, j in ((0, 0), (1, 0), (rows - 1, columns - 1)):
            assert torch.equal(feature[0, :, i, j], tokens[0, behind + i * columns + j])


# guidance of target and source where it is not a preset's
SCALES = {"turbo": (1.0, 1.0), "flux-schnell": (1.0, 1.0), "flux-dev": (5.5, 1.5)}


def test_every_method_edits_with_every_family(family: Family, tmp_path: Path, image_file: Path) -> None:
    """Through `cpds image`, with the guidance that the family wants; the second time for the same bits."""
    command = f"image --img_path {image_file} --prompt cat --trg_prompt dog --prior {family.folder} --device cpu"
    command += f" --resolution {HEIGHT} --n_patches 8 --polish 0 --num_inference_steps"
    source = LatentImage(open_image(image_file), family.prior, LatentImageConfig(resolution=HEIGHT)).source_latents()
    ends: dict[str, Tensor] = {}
    for name in (*OBJECTIVES, "cpds again"):
        method, out = name.split()[0], tmp_path / name.replace(" ", "-")
        steps = "2" if method == "cpds" else "1"
        assert main([*command.split(), steps, "--method", method, "--save_path", str(out)]) == 0, name
        guidance = json.loads((out / "config.json").read_text())["edit"]["guidance"]
        assert guidance["method"] == method
        usual = SCALES.get(family.name, tuple(PRESETS[method].guidance.default_guidance))
        assert (guidance["guidance_scale"], guidance["source_guidance_scale"]) == usual
        ends[name] = load_file(out / "checkpoint.safetensors")["param.latent.0"]
        assert bool(ends[name].isfinite().all())
        assert not torch.equal(ends[name], source), name
    assert torch.equal(ends["cpds"], ends.pop("cpds again"))


def test_a_family_edits_from_the_command_line(family: Family, tmp_path: Path, image_file: Path) -> None:
    command = f"image --img_path {image_file} --prompt cat --trg_prompt dog --prior {family.folder} --device cpu"
    command += f" --num_inference_steps 2 --n_patches 8 --resolution {HEIGHT} --polish 0.2 --low_memory"
    assert main([*command.split(), "--save_path", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out/result.png") as result:
        assert result.size == (40, 28)
    fingerprint = json.loads((tmp_path / "out/config.json").read_text())
    assert "bfloat16 vae_tiling" in json.dumps(fingerprint)
