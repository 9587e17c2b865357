"""The custom pipeline for diffusers: `cpds.edit` on the same folder is its oracle."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from conftest import randn
from diffusers import DiffusionPipeline
from diffusers.utils import dynamic_modules_utils
from documents import fenced
from PIL import Image
from tiny_priors import BUILDERS, Family
from torch import Tensor

from cpds import EditConfig, GuidanceConfig, InputError, edit, load_prior
from cpds.errors import EditDiverged
from cpds.images import to_pil
from representations.latent import LatentImage, LatentImageConfig

FOLDER = Path(__file__).parents[1] / "integrations" / "diffusers"
CONFIG = EditConfig(GuidanceConfig("pds"), num_inference_steps=2, optimizer="adam", lr=0.3, seed=3)
PROMPTS = ("a cat", "a dog")
Open = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """from_pretrained with our pipeline, which diffusers copies into a folder of its own."""
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))

    def load(folder: Path, **kwargs: Any) -> Any:
        own = {"custom_pipeline": str(FOLDER), "trust_remote_code": True}
        pipeline = DiffusionPipeline.from_pretrained(folder, **own, **kwargs)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


def photo(count: int = 1, seed: int = 0) -> Tensor:
    """(count, 3, 24, 40) in [0, 1]."""
    return randn(seed, count, 3, 24, 40).mul(0.2).add(0.5).clamp(0, 1)


def by_cpds(folder: Path, image: Tensor, prompts: Any = PROMPTS, **kwargs: Any) -> Tensor:
    """`kwargs` are LatentImage's."""
    prior = load_prior(folder, device="cpu")
    latent = LatentImage(image, prior, **kwargs)
    edit(latent, prior, *prompts, CONFIG)
    return latent.preview()


@pytest.mark.parametrize("name", ["turbo", "sdxl", "sd3-without-t5", "flux-dev", "flux2", "pixart", "z-image"])
def test_every_family_gives_what_cpds_gives(name: str, families: Callable[[str], Family], opened: Open) -> None:
    folder = families(name).folder
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3-without-t5" else {}
    run = {"preset": CONFIG, "resolution": 32, "output_type": "pt"}
    edited = opened(folder, **absent)(photo(), *PROMPTS, **run).images
    assert torch.equal(edited, by_cpds(folder, photo(), config=LatentImageConfig(32)))
    assert (edited - photo()).abs().max() > 0.01


def test_the_program_of_its_readme_runs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Open
) -> None:
    """With a tiny pipeline in the hub's place."""
    (program,) = fenced("integrations/diffusers/README.md", "python")
    places = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": tiny_folder,
        "integrations/diffusers": FOLDER,
        "cuda": "cpu",
    }
    for name, place in places.items():
        assert f'"{name}"' in program
        program = program.replace(f'"{name}"', repr(str(place)))
    monkeypatch.chdir(tmp_path)
    to_pil(photo()).save("cat.png")
    names: dict[str, Any] = {}
    exec(program, names)
    assert names["edited"].size == (40, 24)


def test_dropped_transparency_is_told(tiny_folder: Path, opened: Open) -> None:
    clear = Image.new("RGBA", (32, 32), (200, 90, 20, 128))
    with pytest.warns(UserWarning, match="image has transparency, which the result has not"):
        opened(tiny_folder)(clear, *PROMPTS, preset=CONFIG)


def test_settings_of_pipelines_are_kept(tmp_path: Path, opened: Open) -> None:
    """SDXL's unconditional prompt is zeros or the encoding of nothing."""
    torch.manual_seed(0)
    BUILDERS["sdxl"](tmp_path / "build").save_pretrained(tmp_path / "zeros")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "zeros")
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    pipeline.save_pretrained(tmp_path / "encoded")
    run = {"preset": CONFIG, "resolution": 32, "output_type": "pt"}
    zeros, encoded = (opened(tmp_path / name)(photo(), *PROMPTS, **run).images for name in ("zeros", "encoded"))
    assert not torch.equal(zeros, encoded)
    assert torch.equal(encoded, by_cpds(tmp_path / "encoded", photo(), config=LatentImageConfig(32)))


def test_what_is_saved_is_an_ordinary_pipeline(tiny_folder: Path, tmp_path: Path, opened: Open) -> None:
    first = opened(tiny_folder)
    first.save_pretrained(tmp_path / "saved")
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "saved")) is diffusers.StableDiffusionPipeline
    again = opened(tmp_path / "saved")(photo(), *PROMPTS, preset=CONFIG, output_type="pt").images
    assert torch.equal(again, first(photo(), *PROMPTS, preset=CONFIG, output_type="pt").images)
    assert torch.equal(again, by_cpds(tmp_path / "saved", photo()))


def test_networks_of_another_pipeline(tiny_folder: Path, opened: Open, families: Callable[[str], Family]) -> None:
    theirs = families("sd").pipeline
    ours = type(opened(tiny_folder)).from_pipe(theirs)
    ours.set_progress_bar_config(disable=True)
    assert ours.unet is theirs.unet
    assert type(ours.plain()) is type(theirs)
    edited = ours(photo(), *PROMPTS, preset=CONFIG, output_type="pt").images
    assert torch.equal(edited, by_cpds(families("sd").folder, photo()))


@torch.no_grad()
def test_images_of_every_kind(tiny_folder: Path, opened: Open) -> None:
    """As they go in so they may come out, where gradients are off, too."""
    pipeline = opened(tiny_folder)
    image = to_pil(photo())
    array = np.asarray(image, dtype=np.float32) / 255
    batch = torch.from_numpy(array).permute(2, 0, 1)[None].contiguous()
    with torch.enable_grad():
        wanted = by_cpds(tiny_folder, batch)
    for given in (image, [image], array, batch, batch[0]):
        output = pipeline(given, *PROMPTS, preset=CONFIG)
        assert isinstance(output, diffusers.ImagePipelineOutput)
        assert np.array_equal(np.asarray(output.images[0]), np.asarray(to_pil(wanted)))
    (found,) = pipeline(array, *PROMPTS, preset=CONFIG, output_type="np", return_dict=False)
    assert np.array_equal(found, wanted.permute(0, 2, 3, 1).numpy())


def test_a_name_tells_of_few_steps(families: Callable[[str], Family], tmp_path: Path, opened: Open) -> None:
    for name, kind in (("hyperrealism", "classifier-free"), ("sd3-turbo", "none")):
        (tmp_path / name).symlink_to(families("sd3").folder)
        assert opened(tmp_path / name).prior().guidance == kind


def test_several_images_each_with_prompts_of_their_own(tiny_folder: Path, opened: Open) -> None:
    prompts = (["a cat", "a cup"], ["a dog", "a hat"])
    edited = opened(tiny_folder)(photo(2), *prompts, preset=CONFIG, output_type="pt").images
    assert torch.equal(edited, by_cpds(tiny_folder, photo(2), prompts))
    with pytest.raises(InputError, match="2 prompts for 3 images: give one, or one for each image"):
        opened(tiny_folder)(photo(3), *prompts, preset=CONFIG)


@pytest.mark.parametrize("prompts", [PROMPTS, (["a cat"], "a dog")])
def test_several_images_under_one_prompt_come_out_as_if_alone(prompts: Any, tiny_folder: Path, opened: Open) -> None:
    edited = opened(tiny_folder)(photo(3), *prompts, preset=CONFIG, output_type="pt").images
    alone = torch.cat([by_cpds(tiny_folder, image) for image in photo(3).split(1)])
    torch.testing.assert_close(edited, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prompts", [(None, "a dog"), ("a cat", ["a dog", 3])])
def test_prompts_that_are_no_texts_are_refused(tiny_folder: Path, opened: Open, prompts: Any) -> None:
    with pytest.raises(InputError, match="the prompts must be a text, or a list of texts"):
        opened(tiny_folder)(photo(), *prompts, preset=CONFIG)


def test_an_edit_that_diverges_gives_no_black_image(tiny_folder: Path, opened: Open) -> None:
    """Its latent is finite, and what the prior makes of that is not."""
    with pytest.raises(EditDiverged, match="step 1 left NaN or infinite values in what is shown"):
        opened(tiny_folder)(photo(), *PROMPTS, preset=replace(CONFIG, num_inference_steps=1, lr=1e30))


def test_masks_and_sizes(tiny_folder: Path, opened: Open) -> None:
    mask = torch.zeros(1, 1, 24, 40)
    mask[..., :20] = 1
    white = to_pil(mask.expand(1, 3, 24, 40))
    run = {"preset": CONFIG, "resolution": 16, "output_type": "pt"}
    edited = opened(tiny_folder)(photo(), *PROMPTS, mask_image=white, **run).images
    assert torch.equal(edited, by_cpds(tiny_folder, photo(), config=LatentImageConfig(16), mask=mask))
    assert torch.equal(edited[..., 20:], photo()[..., 20:])
    assert not torch.equal(edited[..., :20], photo()[..., :20])


def test_single_settings_take_the_place_of_the_presets(tiny_folder: Path, opened: Open) -> None:
    steps: list[int] = []

    class Count:
        def started(self, state: Any) -> None:
            assert (state.config.seed, state.config.guidance.guidance_scale, state.config.lr) == (9, 2.0, CONFIG.lr)

        def stepped(self, state: Any, result: Any) -> None:
            steps.append(state.step)

        def finished(self, state: Any) -> None:
            pass

    preset = replace(CONFIG, num_inference_steps=50)
    more = {"num_inference_steps": 2, "guidance_scale": 2.0, "seed": 9}
    opened(tiny_folder)(photo(), *PROMPTS, preset=preset, callbacks=[Count()], **more)
    assert steps == [1, 2]


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"preset": "magic"}, "there is no preset 'magic': name one of"),
        ({"output_type": "latent"}, "output_type must be one of pil, np, pt, got 'latent'"),
        ({"num_inference_steps": 0}, "num_inference_steps must be >= 1, got 0"),
        ({"resolution": 3}, "resolution must be >= 16 px, got 3"),
        ({"image": "cat.png"}, "image cannot be used"),
        ({"image": 255 * np.ones((24, 40, 3))}, "values 255 ... 255: it needs 3 channels and values in 0 ... 1"),
        ({"image": torch.rand(1, 4, 24, 40)}, "it needs 3 channels"),
        ({"image": torch.full((1, 3, 24, 40), torch.nan)}, "values in 0 ... 1"),
        ({"image": [Image.new("RGB", (24, 24)), Image.new("RGB", (24, 40))]}, "give images of one size"),
        ({"mask_image": Image.new("L", (40, 20))}, "mask_image is 40x20 px but the image is 40x24"),
    ],
)
def test_what_cannot_be_used_is_said(kwargs: dict[str, Any], sentence: str, tiny_folder: Path, opened: Open) -> None:
    with pytest.raises(InputError, match=sentence.replace(".", r"\.")):
        opened(tiny_folder)(kwargs.pop("image", photo()), *PROMPTS, **kwargs)


def test_other_networks_are_refused(tiny_folder: Path, tmp_path: Path, opened: Open) -> None:
    pipeline = DiffusionPipeline.from_pretrained(tiny_folder)
    audio = diffusers.DDPMPipeline(
        diffusers.UNet2DModel(
            8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
        ),
        pipeline.scheduler,
    )
    audio.save_pretrained(tmp_path / "other")
    with pytest.raises(
        InputError, match="cpds cannot edit with scheduler DDIMScheduler, unet UNet2DModel: load one of"
    ):
        opened(tmp_path / "other")


def test_offloaded_networks_are_refused(tiny_folder: Path, opened: Open) -> None:
    pipeline = opened(tiny_folder)
    pipeline.unet._hf_hook = object()  # as accelerate's hooks say that they are there
    with pytest.raises(InputError, match="offloaded"):
        pipeline(photo(), *PROMPTS)
