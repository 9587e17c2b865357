"""Each option of loading a prior: what it does to networks and results, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import OTHER_OPTIONS, randn
from diffusers import AutoencoderTiny
from labelled_device import labelled_device
from safetensors.torch import load_file, save_file
from tiny_priors import BUILDERS, Family, tiny_vae
from torch import Tensor, nn

from cpds.apps.cli.main import main, parse
from cpds.apps.cli.priors import SIZES
from cpds.errors import InputError, MissingExtra
from cpds.priors.hooks import Tap, capture
from cpds.priors.load import load_prior
from cpds.priors.options import PriorOptions, is_few_step_name

CPU = torch.device("cpu")
Get = Callable[[str], Family]


def loaded(folder: Path, **options: Any) -> Any:
    return load_prior(folder, device="cpu", options=PriorOptions(**options))


def images(height: int, width: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


# ---- what needs no network


def test_low_memory_stands_for_what_it_says() -> None:
    plain = PriorOptions(low_memory=True, keep_text_encoders=True)
    tiled = replace(plain, vae_tiling=True, vae_slicing=True, keep_text_encoders=False)
    assert plain.resolved("cpu") == replace(tiled, torch_dtype="bf16")
    assert plain.resolved("cuda") == replace(tiled, offload="group")
    assert replace(plain, offload="model", torch_dtype="fp16").resolved("cuda") == replace(
        tiled, offload="model", torch_dtype="fp16"
    )
    assert PriorOptions().resolved("cuda") == PriorOptions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offload": "group"}, "offload group moves weights between a GPU and the CPU, and the device is cpu"),
        ({"quantize": "bnb_4bit"}, "quantize bnb_4bit needs a CUDA device, and the device is cpu"),
        ({"quantize": "torchao_int8"}, "quantize torchao_int8 needs the package torchao, which is not installed"),
        ({"tiny_vae": ""}, "tiny_vae is empty"),
        ({"tiny_vae": "nothing/here"}, "tiny_vae 'nothing/here' is no local folder and .* the hub cannot be reached"),
        ({"attention_backend": "magic"}, "attention_backend 'magic' is not known: take one of flash, .*native"),
        ({"attention_backend": "sage"}, "'sage' would do nothing: diffusers changes the attention of a UNet2DCond"),
        ({"transformer": "weights.gguf"}, "weights.gguf is a GGUF file needs the package gguf"),
        ({"transformer": "none.safetensors"}, "cannot be loaded"),
        ({"prior_config": "some/where"}, "prior_config is for a prior that is a single file"),
    ],
)
def test_options_that_cannot_be(
    families: Get, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    absent = ("torchao", "gguf", "bitsandbytes")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in absent else found(name, *a))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=message) as refused:
        loaded(families("sd").folder, **options)
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, MissingExtra) == ("package" in message)


@pytest.mark.parametrize("command", ["image", "svg", "splats", "eval", "dreambooth"])
def test_commands_hand_the_options_over(command: str, tmp_path: Path) -> None:
    """By the names of the fields, with the fields' defaults."""
    places = {
        "image": "--img_path x --prompt a --trg_prompt b",
        "svg": "--svg_path x --prompt a --trg_prompt b",
        "splats": "x --cameras x --prompt a --trg_prompt b",
        "eval": "x",
        "dreambooth": "--instances x --save_path y --prompt a",
    }
    flags = [word for name, value in OTHER_OPTIONS.items() for word in words(f"--{name}", value)]
    plain, changed = (parse([command, *places[command].split(), *more]) for more in ([], flags))
    assert plain.prior_options == PriorOptions()
    assert changed.prior_options == PriorOptions(**OTHER_OPTIONS)
    assert plain.prior is None
    assert plain.device == "auto"


def words(flag: str, value: Any) -> list[str]:
    """A flag of `cpds` with its value."""
    if value is True and flag != "--few_step":  # which may also be unsaid
        return [flag]
    return [flag, *map(str, value)] if isinstance(value, tuple) else [flag, str(value)]


@pytest.mark.parametrize("command", ["image", "svg"])
def test_commands_use_them(command: str, tmp_path: Path, image_file: Path, sentence: Callable[[], str]) -> None:
    drawing = tmp_path / "x.svg"
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="4" height="4"/></svg>')
    place = ["--img_path", str(image_file)] if command == "image" else ["--svg_path", str(drawing)]
    words = [command, *place, "--prompt", "a", "--trg_prompt", "b", "--device", "cpu", "--offload", "group"]
    assert main([*words, "--prior", str(tmp_path), "--save_path", str(tmp_path / "out")]) == 2
    assert "offload group moves weights between a GPU and the CPU" in sentence()


# ---- what they do


def test_tiles_and_slices(families: Get) -> None:
    folder, x = families("sd").folder, images(96, 64, 2)
    plain, tiled, sliced = (loaded(folder, **{k: True} if k else {}) for k in ("", "vae_tiling", "vae_slicing"))
    z = plain.encode(x)
    assert torch.equal(sliced.encode(x), torch.cat([plain.encode(one) for one in x.split(1)]))
    assert sliced.vae.use_slicing
    assert tuple(tiled.encode(x).shape) == tuple(z.shape)
    assert not torch.allclose(tiled.encode(x), z, atol=1e-4)
    assert torch.equal(tiled.encode(x[..., :32, :32]), plain.encode(x[..., :32, :32]))  # one tile
    assert tiled.fingerprint == f"{plain.fingerprint} vae_tiling"


def test_a_tiny_autoencoder_encodes_and_the_priors_own_decodes(families: Get, tmp_path: Path) -> None:
    folder, x = families("sd").folder, images(32, 48)
    plain, with_tiny = loaded(folder), loaded(folder, tiny_vae=str(tiny_vae(tmp_path / "taesd")))
    tiny = AutoencoderTiny.from_pretrained(tmp_path / "taesd")
    x.requires_grad_()
    z = with_tiny.encode(x)
    torch.testing.assert_close(z, tiny.encode(2 * x - 1).latents)
    assert float(torch.autograd.grad(z.sum(), x)[0].abs().max()) > 0
    assert torch.equal(with_tiny.decode(z.detach()), plain.decode(z.detach()))


@pytest.mark.parametrize(("scales", "channels", "family"), [(4, 4, "sd"), (3, 16, "sd"), (3, 4, "flux2")])
def test_a_tiny_autoencoder_of_another_family(
    families: Get, tmp_path: Path, scales: int, channels: int, family: str
) -> None:
    words = "of a family without one" if family == "flux2" else f"of {channels} channels for every {2 ** (scales - 1)}"
    with pytest.raises(InputError, match=words):
        loaded(families(family).folder, tiny_vae=str(tiny_vae(tmp_path / "other", scales, channels)))


def test_an_attention_backend_that_is_not_installed(families: Get) -> None:
    with pytest.raises(InputError, match=r"'xformers' cannot be used here: .*install `xformers.* Or leave it out"):
        loaded(families("flux-dev").folder, attention_backend="xformers")


@pytest.mark.parametrize("name", ["flux-dev", "flux2", "z-image"])
def test_attention_backends_agree(families: Get, name: str) -> None:
    family = families(name)
    other = loaded(family.folder, attention_backend="_native_math")
    x, t = randn(0, 1, *family.prior.encode(images(32, 32)).shape[1:]), torch.tensor([400])
    set_to = {getattr(getattr(m, "processor", None), "_attention_backend", None) for m in other.net.modules()} - {None}
    assert [str(getattr(x, "value", x)) for x in set_to] == ["_native_math"]
    one, two = (p.denoise(x, t, p.embed(["a cat"]), tap=1) for p in (family.prior, other))
    torch.testing.assert_close(one.eps, two.eps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sd", "flux-dev", "sd3", "z-image"])
def test_compiled_blocks_are_those_without_taps(families: Get, name: str) -> None:
    prior = loaded(families(name).folder, compile=True)
    tapped = {id(tap.attention) for tap in prior._taps}
    compiled = [m for m in prior.net.modules() if m._compiled_call_impl is not None]
    assert compiled
    assert not any(id(inner) in tapped for block in compiled for inner in block.modules())


def test_a_network_from_a_file_of_its_own(families: Get, tmp_path: Path) -> None:
    family = families("flux-dev")
    weights = load_file(family.folder / "transformer/diffusion_pytorch_model.safetensors")
    weights["proj_out.weight"] = 2 * weights["proj_out.weight"]
    weights["proj_out.bias"] = 2 * weights["proj_out.bias"]
    save_file(weights, tmp_path / "mine.safetensors")
    prior = loaded(family.folder, transformer=str(tmp_path / "mine.safetensors"))
    x, t = randn(0, 1, 4, 8, 8), torch.tensor([999 / 2 - 1])
    v, doubled = (p.denoise(x, t, p.embed(["a cat"])).eps - x for p in (family.prior, prior))
    torch.testing.assert_close(doubled, 2 * v, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "replaced"),
    [
        ("transformer", "network.safetensors"),
        ("tiny_vae", "tiny/diffusion_pytorch_model.safetensors"),
        ("prior_config", "prior/text_encoder/model.safetensors"),
    ],
)
def test_a_run_knows_the_files(
    families: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, replaced: str
) -> None:
    """Of one that was replaced, and of one named otherwise."""
    family = families("sd")
    shutil.copytree(family.folder, tmp_path / "prior")
    shutil.copy(family.folder / "unet/diffusion_pytorch_model.safetensors", tmp_path / "network.safetensors")
    tiny_vae(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    given = Path(replaced).parts[0]
    prior = Path("network.safetensors") if name == "prior_config" else family.folder

    def fingerprint(path: str) -> str:
        return loaded(prior, **{name: path}).fingerprint

    before = fingerprint(given)
    assert fingerprint(str(tmp_path / given)) == before != family.prior.fingerprint
    save_file({k: 2 * x for k, x in load_file(replaced).items()}, replaced)
    assert fingerprint(given) != before


@pytest.mark.parametrize(
    ("name", "few_step", "kind"),
    [
        ("sd", True, "none"),
        ("turbo", False, "classifier-free"),
        ("flux-schnell", False, "classifier-free"),
        ("flux-dev", None, "embedded"),
    ],
)
def test_few_steps_can_be_said(families: Get, name: str, few_step: bool | None, kind: str) -> None:
    assert loaded(families(name).folder, few_step=few_step).guidance == kind


def test_the_listed_priors_of_few_steps_are_known_by_name() -> None:
    for row in json.loads(SIZES.read_text()):
        assert is_few_step_name(row["name"]) == ("few steps" in row["note"]), row["name"]


@pytest.mark.parametrize(
    ("name", "few_step"),
    [
        ("stabilityai/stable-diffusion-3.5-large-turbo", True),
        ("sd_xl_turbo_1.0_fp16.safetensors", True),
        ("dreamshaperXL_v21TurboDPMSDE.safetensors", True),
        ("z_image_turbo_bf16.safetensors", True),
        ("models/flux1-schnell-Q4_K_S.gguf", True),
        ("ByteDance/SDXL-Lightning", True),
        ("sdxl_lightning_4step_lora.safetensors:0.7", True),
        ("ByteDance/Hyper-SD", True),
        ("Hyper-SDXL-8steps-lora.safetensors", True),
        ("Hyper-FLUX.1-dev-8steps-lora.safetensors:0.125", True),
        ("RunDiffusion/Juggernaut-X-Hyper", True),
        ("juggernautXL_hyper_8step.safetensors", True),
        ("realisticVisionV60B1_v51HyperVAE.safetensors", True),
        ("latent-consistency/lcm-lora-sdxl", True),
        ("SimianLuo/LCM_Dreamshaper_v7", True),
        ("hyperrealism-v3", False),
        ("hyper-detail.safetensors:0.5", False),
        ("Hyper_Realistic.safetensors", False),
        ("ByteDance/HyperLoRA", False),
        ("turbocharged.safetensors", False),
        ("calcmap.safetensors", False),
        ("/home/turbo/unet.safetensors", False),  # folders and owners do not count
        ("turbo/some-model", False),
        ("black-forest-labs/FLUX.2-klein-4B", False),  # its config says so
    ],
)
def test_names_tell_of_few_steps(name: str, few_step: bool) -> None:
    assert is_few_step_name(name) == few_step


def test_whose_names_tell_of_few_steps(families: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prior's and the network's; not those of folders around them and of learned words."""
    sd, sd3 = (families(name).folder for name in ("sd", "sd3"))
    here = tmp_path / "turbo"
    here.mkdir()
    for name in ("sd3-large-Turbo", "sd3-large"):
        shutil.copytree(sd3, here / name)
    for name in ("my.safetensors", "my-lightning.safetensors"):
        (here / name).symlink_to(sd / "unet/diffusion_pytorch_model.safetensors")
    save_file({"emb_params": randn(0, 16)}, here / "lcm.safetensors")
    assert load_prior(here / "sd3-large-Turbo", device="cpu").guidance == "none"
    monkeypatch.chdir(here / "sd3-large-Turbo")
    assert load_prior(".", device="cpu").guidance == "none"
    assert load_prior(here / "sd3-large", device="cpu").guidance == "classifier-free"
    assert loaded(sd, transformer=str(here / "my-lightning.safetensors")).guidance == "none"
    words = (f"{here / 'lcm.safetensors'}:<turbo>",)
    assert loaded(sd, transformer=str(here / "my.safetensors"), textual_inversion=words).guidance == "classifier-free"


def test_weights_that_move_after_each_layer_are_kept_for_the_backward_pass() -> None:
    """As group offload does it: a layer's weights are there while it runs, then their storage is another one."""

    def gradient(*, moving: bool) -> Tensor:
        torch.manual_seed(0)
        layers = nn.Sequential(*(nn.Linear(6, 6) for _ in range(3))).requires_grad_(False)
        there = {layer: layer.weight.data.clone() for layer in layers}
        if moving:
            for layer in layers:
                layer.weight.data = torch.zeros(6, 6)
                layer.register_forward_pre_hook(lambda m, _: setattr(m.weight, "data", there[m]))
                layer.register_forward_hook(lambda m, *_: setattr(m.weight, "data", torch.zeros(6, 6)))
        x = randn(1, 1, 4, 6).requires_grad_()
        with capture([Tap(layers[2])], (2, 2), weights_move=moving) as features:
            layers(x.square())
        return torch.autograd.grad(features[0].square().sum(), x)[0]

    assert torch.equal(gradient(moving=True), gradient(moving=False))


@pytest.mark.parametrize("name", list(BUILDERS))
def test_on_a_gpu_everything_is_where_it_computes(families: Get, name: str) -> None:
    family = families(name)
    with labelled_device() as record, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "mem_get_info", lambda _: (2**34, 2**34))
        prior: Any = load_prior(family.folder, device="cuda:0", options=PriorOptions(torch_dtype="fp32"))
        text = prior.embed(["a cat", "a dog"])
        if family.name == "flux-dev":
            text = text.at_scale(2.0)
        z = prior.encode(images(32, 32, 2).to("cuda:0"))
        found = prior.denoise(z, torch.tensor([400, 300]), text, tap=2)
        prior.decode(z)
        assert found.eps.device == z.device
    assert not record.count("mixed devices"), record
