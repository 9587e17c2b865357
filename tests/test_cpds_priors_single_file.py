"""Checkpoints of one file: a tiny pipeline in the layout of the first Stable Diffusion, and files that are none."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randn
from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING
from safetensors.torch import save_file
from tiny_priors import Family
from torch import Tensor

from cpds.errors import InputError
from cpds.priors import single_file
from cpds.priors.load import load_prior
from cpds.priors.options import PriorOptions
from cpds.priors.source import Source, read_index

Get = Callable[[str], Family]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
SCALES = 2  # of the tiny UNet, whose blocks have one layer on the way down and two on the way up


def ldm_unet(key: str) -> str:
    """The name that the first code gave to a UNet's tensor."""
    if (known := DIFFUSERS_TO_LDM_MAPPING["unet"]["layers"].get(key)) is not None:
        return known
    if key.startswith("mid_block."):
        _, kind, number, rest = key.split(".", 3)
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
    else:
        way, block, kind, number, rest = key.split(".", 4)
        down = way == "down_blocks"
        at = 1 + 2 * int(block) + int(number) if down else 2 * int(block) + int(number)
        if "samplers" in kind:
            at, rest = (2 + 2 * int(block), rest.replace("conv", "op")) if down else (2 * int(block) + 1, rest)
        branch = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 2}[kind]
        place = f"{'input' if down else 'output'}_blocks.{at}.{branch}"
    if kind == "resnets":
        name, end = rest.rsplit(".", 1)
        rest = f"{RESNET[name]}.{end}"
    return f"{place}.{rest}"


def ldm_vae(key: str) -> str:
    """The same of the autoencoder."""
    if (known := DIFFUSERS_TO_LDM_MAPPING["vae"].get(key)) is not None:
        return known
    key = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{2 - int(m[1])}", key)  # three scales, counted from the other end
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    for new, old in {
        "down_blocks": "down",
        "resnets": "block",
        "downsamplers.0": "downsample",
        "upsamplers.0": "upsample",
        "mid_block.attentions.0": "mid.attn_1",
        "group_norm": "norm",
        "to_out.0": "proj_out",
        "to_": "",
        "conv_shortcut": "nin_shortcut",
    }.items():
        key = key.replace(new, old)
    return key


def original(pipeline: Any) -> dict[str, Tensor]:
    """A pipeline's tensors in one dictionary, as the first code stored them."""
    tensors = {f"model.diffusion_model.{ldm_unet(k)}": x for k, x in pipeline.unet.state_dict().items()}
    tensors |= {f"first_stage_model.{ldm_vae(k)}": x for k, x in pipeline.vae.state_dict().items()}
    text = {k.removeprefix("text_model."): x for k, x in pipeline.text_encoder.state_dict().items()}
    tensors |= {f"cond_stage_model.transformer.text_model.{k}": x for k, x in text.items()}
    return {k: x.clone().contiguous() for k, x in tensors.items()}


@pytest.fixture(scope="module")
def checkpoint(families: Get, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("single") / "tiny.safetensors"
    save_file(original(families("sd").pipeline), file)
    return file


def test_a_single_file_is_the_pipeline_that_it_was_made_of(families: Get, checkpoint: Path) -> None:
    family = families("sd")
    prior = load_prior(checkpoint, device="cpu", options=PriorOptions(prior_config=str(family.folder)))
    x, t = randn(0, 2, 4, 8, 8), torch.tensor([300, 800])
    one, two = (p.denoise(x, t, p.embed(["a cat", "a dog"]), tap=2) for p in (prior, family.prior))
    assert torch.equal(one.eps, two.eps)
    assert all(torch.equal(a, b) for a, b in zip(one.features, two.features, strict=True))
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prior.encode(images), family.prior.encode(images))
    assert prior.fingerprint.startswith("tiny.safetensors@")


def test_text_encoders_of_a_file_can_come_later(checkpoint: Path, families: Get) -> None:
    family = families("sd")
    index = read_index(family.folder / "model_index.json")
    source = Source(str(checkpoint), index, "unet", torch.float32, True, str(family.folder))
    first = source.open(**dict.fromkeys(source.text_encoders))
    assert first.text_encoder is None
    second = source.open(unet=first.unet, vae=first.vae, scheduler=first.scheduler)
    assert second.unet is first.unet
    ids = torch.arange(32)[None]
    assert torch.equal(second.text_encoder(ids)[0], family.pipeline.text_encoder(ids)[0])


@pytest.mark.parametrize("name", ["flux-dev", "sd3", "z-image"])
def test_a_file_of_the_denoising_network_alone(families: Get, tmp_path: Path, name: str) -> None:
    """Everything else comes from where the configs do."""
    family = families(name)
    weights = {
        k: 1.5 * x if k.startswith("proj_out") else x for k, x in family.pipeline.transformer.state_dict().items()
    }
    save_file({k: x.clone().contiguous() for k, x in weights.items()}, tmp_path / "network.safetensors")
    options = PriorOptions(prior_config=str(family.folder))
    prior: Any = load_prior(tmp_path / "network.safetensors", device="cpu", options=options)
    assert all(torch.equal(x, weights[k]) for k, x in prior.net.state_dict().items())
    assert torch.equal(prior.embed(["a cat"])["embeds"], family.prior.embed(["a cat"])["embeds"])


def test_the_kind_of_a_file_says_where_its_configs_are(
    checkpoint: Path, families: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(single_file.KINDS, "v1", str(families("sd").folder))
    assert load_prior(checkpoint, device="cpu").image_size == 32


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "bin", "pth"])
def test_pickles_are_refused_with_a_conversion(
    checkpoint: Path, families: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """The command that the message names makes a file that loads."""
    torch.save({"state_dict": original(families("sd").pipeline), "step": 3}, tmp_path / f"old.{suffix}")
    with pytest.raises(InputError, match="is a pickle, which can run any program") as refused:
        load_prior(tmp_path / f"old.{suffix}", device="cpu")
    program, *argv = re.findall(r'python -c "(.*)" (\S+) (\S+)$', str(refused.value))[0]
    if suffix == "ckpt":
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["-c", *argv])
        exec(program, {})
        options = PriorOptions(prior_config=str(families("sd").folder))
        assert load_prior(tmp_path / "old.safetensors", device="cpu", options=options).image_size == 32


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.gguf", b"GGUF", "is a GGUF file, which holds the denoising network alone"),
        ("a.png", b"", "is a file: give a .safetensors checkpoint"),
        ("a.safetensors", b"garbage" * 9, r"is not a \.safetensors checkpoint"),
        (
            "a.safetensors",
            {"lora_unet_down.alpha": torch.zeros(1)},
            r"known family \(but nothing\).*a LoRA is no prior",
        ),
        ("a.safetensors", {"controlnet_cond_embedding.conv_in.weight": torch.zeros(1)}, r"\(but controlnet"),
    ],
)
def test_files_that_are_no_prior(tmp_path: Path, name: str, content: bytes | dict[str, Tensor], message: str) -> None:
    if isinstance(content, dict):
        save_file(content, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        load_prior(tmp_path / name, device="cpu")
    assert "\n" not in str(refused.value)


def test_configs_of_another_family(checkpoint: Path, families: Get, tmp_path: Path) -> None:
    for configs, message in ((families("flux2").folder, "cannot be loaded"), (tmp_path, "has no model_index.json")):
        with pytest.raises(InputError, match=message):
            load_prior(checkpoint, device="cpu", options=PriorOptions(prior_config=str(configs)))
