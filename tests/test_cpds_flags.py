"""No flag is idle: each setting of `cpds image` changes the pixels, or is refused, or does what its case says."""

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from conftest import PRIOR_OPTIONS
from PIL import Image
from safetensors.torch import load_file

from cpds.apps.cli.image import ImageArgs
from cpds.apps.cli.main import parse
from cpds.config import EditConfig, GuidanceConfig
from cpds.editor import run, start
from cpds.images import open_image
from cpds.priors.unet import UNetPrior
from representations.latent import LatentImage, LatentImageConfig

Edit = Callable[..., int]

# Two runs that differ in one flag alone: (flags of both, flags of the second). --preset is set, so that --method alone
# changes the method and nothing else; 8 of the tiny prior's 16 and 64 patches leave the selectors a choice.
COMMON = "--preset cds --method cpds --num_inference_steps 3 --lr 0.5 --n_patches 8"
PIXELS: dict[str, tuple[str, str]] = {
    # GuidanceConfig
    "method": ("", "--method pds"),
    "guidance_scale": ("", "--guidance_scale 3"),
    "negative_prompt": ("", "--negative_prompt pig"),
    "w_direction": ("", "--w_direction 0.5"),
    "w_cut": ("", "--w_cut 3"),
    "w_identity": ("", "--w_identity 0.5"),
    "w_proximity": ("", "--w_proximity 3"),
    "stride": ("", "--stride 20"),
    "patch_size": ("", "--patch_size 1"),
    "n_patches": ("", "--n_patches 4"),
    "patch_share": ("", "--patch_share 0.1"),
    "patch_loss": ("", "--patch_loss hdce"),
    "temperature": ("", "--temperature 0.2"),
    "patch_selector": ("--patch_selector random --selector_every 1", "--patch_selector learned"),
    "selector_every": ("--patch_selector learned --selector_every 1", "--selector_every 2"),
    "normalize_gradient": ("", "--no-normalize_gradient"),
    "method_options": ("--method lusd", "--method_options pull 0.5"),
    "source_guidance_scale": ("", "--source_guidance_scale 2"),
    "guidance_schedule": ("", "--guidance_schedule rising"),
    "default_guidance": ("", "--default_guidance 3 None"),
    "default_schedule": ("", "--default_schedule rising"),
    "guidance_interval": ("--guidance_schedule interval", "--guidance_interval 0.6 0.7"),
    "guidance_table": ("--guidance_schedule table", "--guidance_table 0 2 1 1"),
    "guidance_parallel": ("", "--guidance_parallel 0.5"),
    "guidance_rescale": ("", "--guidance_rescale 0.5"),
    "localize": ("", "--localize"),
    "min_direction": ("", "--min_direction 1000"),
    "reestimate_noise": ("", "--reestimate_noise"),
    "timesteps": ("", "--timesteps non-increasing"),
    "t_min": ("", "--t_min 0.5"),
    "t_max": ("", "--t_max 0.5"),
    # EditConfig
    "num_inference_steps": ("", "--num_inference_steps 4"),
    "stop_below": ("--num_inference_steps 11 --lr_decay 0.001", "--stop_below 0.999"),
    "polish": ("", "--polish 0.3"),
    "optimizer": ("", "--optimizer adam"),
    "lr": ("", "--lr 0.4"),
    "lr_scaling": ("", "--lr_scaling area"),
    "lr_decay": ("", "--lr_decay 0.5"),
    "group_lrs": ("", "--group_lrs latent 0.1"),
    "seed": ("", "--seed 1"),
}
NESTED = {"guidance", "edit"}  # hold the settings above
ELSEWHERE = {  # which are not for images
    "true_guidance_scale",  # of priors with embedded guidance: test_cpds_guidance_kinds.py
    "redraw_steps",  # of drawings: test_cpds_redraw.py
    "redraw_lr",
}


def parsed(flags: str) -> ImageArgs:
    args = parse(["image", "--img_path", "x", "--prompt", "a cat", "--trg_prompt", "a dog", *flags.split()])
    assert isinstance(args, ImageArgs)
    return args


def final_latent(prior: UNetPrior, image_file: Path, config: EditConfig) -> torch.Tensor:
    image = LatentImage(open_image(image_file), prior)
    run(start(image, prior, "a cat", "a dog", config))
    return image.z.detach()


@pytest.mark.parametrize("name", [f.name for c in (GuidanceConfig, EditConfig) for f in fields(c)])
def test_settings_change_the_latent(prior: UNetPrior, image_file: Path, name: str) -> None:
    if name in NESTED | ELSEWHERE:
        return
    assert name in PIXELS, f"{name} is a new setting: give it a case that shows what it changes"
    both, second = PIXELS[name]
    one, other = (parsed(f"{COMMON} {both} {more}").edit for more in ("", second))
    changed = {
        f.name
        for c in (EditConfig, GuidanceConfig)
        for f in fields(c)
        if f.name not in NESTED
        and getattr(one if c is EditConfig else one.guidance, f.name)
        != getattr(other if c is EditConfig else other.guidance, f.name)
    }
    assert changed == {name}
    first = final_latent(prior, image_file, one)
    assert torch.equal(first, final_latent(prior, image_file, one))
    assert not torch.equal(first, final_latent(prior, image_file, other))


def test_every_selector_chooses_differently(prior: UNetPrior, image_file: Path) -> None:
    pytest.importorskip("sklearn")
    names = ("random", "learned", "svm", "knn", "forest", "qs-attn", "enco-dag", "relevance", "meta-learner")
    settings = f"{COMMON} --num_inference_steps 4 --selector_every 1 --patch_selector"
    results = [final_latent(prior, image_file, parsed(f"{settings} {name}").edit) for name in names]
    for i, a in enumerate(results):
        assert not any(torch.equal(a, b) for b in results[:i]), names[i]


def test_every_loss_on_patches_edits_differently(prior: UNetPrior, image_file: Path) -> None:
    losses = get_args(get_type_hints(GuidanceConfig)["patch_loss"])
    results = [final_latent(prior, image_file, parsed(f"{COMMON} --patch_loss {name}").edit) for name in losses]
    for i, a in enumerate(results):
        assert not any(torch.equal(a, b) for b in results[:i]), losses[i]


@pytest.mark.parametrize(
    ("method", "idle"),
    [
        ("sds", "--w_cut 5 --w_identity 3 --stride 9 --n_patches 4"),  # neither posterior nor contrastive loss
        ("dds", "--w_cut 5 --w_identity 3 --stride 9 --n_patches 4"),
        ("cds", "--w_identity 3 --stride 9"),  # no posterior
        ("pds", "--w_cut 5 --patch_size 1 --temperature 1"),  # no contrastive loss
    ],
)
def test_settings_of_other_methods_are_idle_as_documented(
    prior: UNetPrior, image_file: Path, method: str, idle: str
) -> None:
    plain = f"{COMMON} --method {method}"
    a, b = (final_latent(prior, image_file, parsed(f).edit) for f in (plain, f"{plain} {idle}"))
    assert torch.equal(a, b)


# ---- what only the command line knows


def result(folder: Path) -> bytes:
    return (folder / "result.png").read_bytes()


def other_image(edit: Edit, here: Path) -> None:
    Image.new("RGB", (40, 28), "red").save(here / "red.png")
    assert edit(img_path=here / "red.png", save_path=here / "two") == 0


def save_path(edit: Edit, here: Path) -> None:
    assert edit(save_path=here / "deep/er/two") == 0
    assert result(here / "deep/er/two") == result(here / "out")
    shutil.copytree(here / "deep/er/two", here / "two")


def other_prior(edit: Edit, here: Path) -> None:
    assert edit(prior=here / "nothing", save_path=here / "two") == 2


def mask(edit: Edit, here: Path) -> None:
    half = Image.new("L", (40, 28), 0)
    half.paste(255, (0, 0, 20, 28))
    half.save(here / "half.png")
    assert edit(mask=here / "half.png", save_path=here / "two") == 0
    with Image.open(here / "cat.png") as source, Image.open(here / "two/result.png") as after:
        assert source.tobytes() != after.tobytes()
        held = (20, 0, 40, 28)
        assert source.crop(held).tobytes() == after.crop(held).tobytes()


def resume(edit: Edit, here: Path) -> None:
    assert edit() == 2  # the folder is taken
    assert edit(resume=True) == 0  # finished: nothing to do


def device(edit: Edit, here: Path) -> None:
    assert edit(device="cuda:99", save_path=here / "two") == 2


def preset(edit: Edit, here: Path) -> None:
    for name in ("dds", "cds-paper"):
        assert edit(preset=name, save_path=here / name) == 0
    assert len({result(here / p) for p in ("out", "dds", "cds-paper")}) == 3


def edit_settings(edit: Edit, here: Path) -> None:
    assert edit(seed=5, save_path=here / "two") == 0


def changes(**flags: object) -> Callable[[Edit, Path], None]:
    def case(edit: Edit, here: Path) -> None:
        assert edit(save_path=here / "two", **flags) == 0

    return case


DIFFERS = {  # another result than without the flag
    "img_path": other_image,
    "prompt": changes(prompt="a pig"),
    "target_prompt": changes(trg_prompt="a pig"),
    "preset": preset,
    "mask": mask,
    "resolution": changes(resolution=48),
    "keep_unchanged": changes(no_keep_unchanged=True),
    "torch_dtype": changes(torch_dtype="bf16"),
    "edit": edit_settings,
}


def checkpoint_every(edit: Edit, here: Path) -> None:  # what it does: test_cpds_resume.py
    assert edit(checkpoint_every=0, save_path=here / "two") == 2


def profile(edit: Edit, here: Path) -> None:
    assert edit(profile=True, save_path=here / "two") == 0
    assert "whole" in (here / "two/profile.txt").read_text()
    assert not (here / "out/profile.txt").exists()


DOES = {  # or something else
    "save_path": save_path,
    "prior": other_prior,
    "resume": resume,
    "checkpoint_every": checkpoint_every,
    "device": device,
    "profile": profile,
}


@pytest.mark.parametrize(
    "name",
    dict.fromkeys(f.name for c in (ImageArgs, LatentImageConfig) for f in fields(c) if f.name not in PRIOR_OPTIONS),
)
def test_flags_of_the_command(edit: Edit, tmp_path: Path, name: str) -> None:
    assert name in DIFFERS.keys() | DOES.keys(), f"{name} is a new flag: give it a case that shows what it does"
    assert edit() == 0
    (DIFFERS | DOES)[name](edit, tmp_path)
    if name in DIFFERS and (tmp_path / "two").exists():
        assert result(tmp_path / "out") != result(tmp_path / "two")


def test_another_prior_gives_another_latent(edit: Edit, tmp_path: Path, tiny_folder: Path) -> None:
    from safetensors.torch import save_file

    shutil.copytree(tiny_folder, tmp_path / "tiny")
    file = tmp_path / "tiny/unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.weight"] = weights["conv_out.weight"] * 2
    save_file(weights, file, metadata={"format": "pt"})
    assert edit() == 0
    assert edit(prior=tmp_path / "tiny", save_path=tmp_path / "two") == 0
    one, two = (load_file(tmp_path / f / "checkpoint.safetensors")["param.latent.0"] for f in ("out", "two"))
    assert not torch.equal(one, two)
    assert edit(prior=tmp_path / "tiny", resume=True) == 2  # same folder name, other weights: another run
