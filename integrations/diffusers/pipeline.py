"""Edit images by prompt, as a custom pipeline of diffusers.

pipeline = DiffusionPipeline.from_pretrained(
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    custom_pipeline="integrations/diffusers",
    trust_remote_code=True,
)
pipeline(image, "a photo of a cat", "a photo of a dog").images[0]
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DiffusionPipeline,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    ImagePipelineOutput,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from diffusers.image_processor import VaeImageProcessor
from transformers import PreTrainedModel

from cpds import PRESETS, Callback, EditConfig, EditState, InputError, Prior, edit
from cpds.editor import require_texts
from cpds.guidance import StepResult
from cpds.priors.load import FAMILIES
from cpds.priors.options import PriorOptions, is_few_step_name
from cpds.state import preview_of
from representations.latent import LatentImage, LatentImageConfig

Transformer = (
    SD3Transformer2DModel
    | FluxTransformer2DModel
    | Flux2Transformer2DModel
    | PixArtTransformer2DModel
    | ZImageTransformer2DModel
)
IMAGES = VaeImageProcessor(do_resize=False, do_normalize=False, do_convert_rgb=True)
MASKS = VaeImageProcessor(do_resize=False, do_normalize=False, do_convert_grayscale=True)
OUTPUTS = ("pil", "np", "pt")


class CPDSPipeline(DiffusionPipeline):
    """`cpds.edit` on the networks of any pipeline whose family cpds knows: Stable Diffusion 1.x, 2.x, XL and 3, FLUX,
    PixArt-Sigma, Z-Image.

    Raises InputError for the components of any other.
    """

    _optional_components: ClassVar = [
        *("vae", "scheduler", "unet", "transformer", "text_encoder", "tokenizer"),
        *("text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"),
    ]  # each family has some of them

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderKLFlux2 | None = None,
        scheduler=None,
        unet: UNet2DConditionModel | None = None,
        transformer: Transformer | None = None,
        text_encoder: PreTrainedModel | None = None,
        tokenizer=None,
        text_encoder_2: PreTrainedModel | None = None,
        tokenizer_2=None,
        text_encoder_3: PreTrainedModel | None = None,
        tokenizer_3=None,
        force_zeros_for_empty_prompt: bool = True,
        is_distilled: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            scheduler=scheduler,
            unet=unet,
            transformer=transformer,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
        self.register_to_config(force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, is_distilled=is_distilled)
        self.plain()

    def plain(self) -> DiffusionPipeline:
        """diffusers' own pipeline of the same networks, for images from text. InputError where cpds knows none."""
        parts = self.components
        present = {name for name, part in parts.items() if part is not None}
        fitting: dict[int, type[DiffusionPipeline]] = {}
        for name, family in FAMILIES.items():
            kind = getattr(diffusers, name)
            right_network = isinstance(parts[family.network], kind._get_signature_types()[family.network])
            if right_network and {family.network, "vae", "scheduler", *family.needs} <= present:
                fitting[len(family.needs)] = kind
        if not fitting:
            named = ", ".join(f"{name} {type(parts[name]).__name__}" for name in sorted(present)) or "nothing"
            raise InputError(f"cpds cannot edit with {named}: load one of {', '.join(FAMILIES)}")
        kind = fitting[max(fitting)]  # SDXL has all that Stable Diffusion needs
        required, optional = kind._get_signature_keys(kind)
        given = {name: parts.get(name) for name in required}
        settings = {name: self.config[name] for name in optional if name in self.config}
        return kind(**given, **settings, **({"requires_safety_checker": False} if "safety_checker" in given else {}))

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """As diffusers' own pipeline, which any program can load; so can this one, named as custom_pipeline again."""
        self.plain().save_pretrained(save_directory, **kwargs)

    def prior(self) -> Prior:
        """The networks, frozen, as `cpds.edit` takes them, where they are. InputError where they are offloaded."""
        modules = [part for part in self.components.values() if isinstance(part, torch.nn.Module)]
        if any(hasattr(module, "_hf_hook") for module in modules) or self._maybe_raise_error_if_group_offload_active():
            raise InputError(
                "the pipeline is offloaded or has a device_map: load it without, or let cpds offload it, "
                "load_prior(name, options=PriorOptions(offload='model'))"
            )
        plain, name = self.plain(), str(self.config.get("_name_or_path", ""))
        options = PriorOptions(few_step=is_few_step_name(name) or None)
        fingerprint = Path(name).name if Path(name).exists() else name
        return FAMILIES[type(plain).__name__](plain, self.device, fingerprint, options=options)

    def __call__(
        self,
        image: Any,
        prompt: str | Sequence[str],
        target_prompt: str | Sequence[str],
        *,
        mask_image: Any = None,
        preset: str | EditConfig = "cpds",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
        resolution: int | None = None,
        callbacks: Sequence[Callback] = (),
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Images edited from what `prompt` says to what `target_prompt` says, at their own size.

        `image`: PIL, numpy (h, w, 3) or torch (3, h, w) in [0, 1], a batch, or a list, of one size: each is edited as
        if it were alone, and may have its own `prompt` and `target_prompt`, which then are lists. `mask_image` has its
        size; white may change. `preset`: a name of `cpds presets`, or settings of your own; the next three replace what
        it says. `resolution`: shorter side while editing, in px, by default what the networks were trained on. Raises
        InputError for what cannot be used.
        """
        if output_type not in OUTPUTS:
            raise InputError(f"output_type must be one of {', '.join(OUTPUTS)}, got {output_type!r}")
        config = settings(preset, num_inference_steps, guidance_scale, seed)
        images = tensor(image, "image", IMAGES)
        mask = None if mask_image is None else tensor(mask_image, "mask_image", MASKS)
        if mask is not None and mask.shape[-2:] != images.shape[-2:]:
            sizes = [f"{width}x{height}" for height, width in (mask.shape[-2:], images.shape[-2:])]
            raise InputError(f"mask_image is {sizes[0]} px but the image is {sizes[1]}: make them the same size")
        prompts, targets = (one_each(given, len(images)) for given in (prompt, target_prompt))
        prior, progress_bar = self.prior(), cast(Any, self.progress_bar)
        with torch.enable_grad():  # pipelines are often called where it is off
            latent = LatentImage(images, prior, LatentImageConfig(resolution), mask)
            with progress_bar(total=config.num_inference_steps) as bar:
                state = edit(latent, prior, prompts, targets, config, [Steps(bar), *callbacks])
        edited: Any = IMAGES.postprocess(preview_of(state), output_type, [False] * len(images))
        return ImagePipelineOutput(edited) if return_dict else (edited,)


class Steps:
    """A pipeline's progress bar moved on by every step."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def started(self, state: EditState) -> None:
        pass

    def stepped(self, state: EditState, result: StepResult) -> None:
        self.bar.update()

    def finished(self, state: EditState) -> None:
        pass


def settings(
    preset: str | EditConfig, num_inference_steps: int | None, guidance_scale: float | None, seed: int | None
) -> EditConfig:
    """A preset's, with what is not None in their place. InputError for an unknown one and for impossible values."""
    if isinstance(preset, str) and preset not in PRESETS:
        raise InputError(f"there is no preset {preset!r}: name one of {', '.join(PRESETS)}")
    config = PRESETS[preset] if isinstance(preset, str) else preset
    guidance = config.guidance if guidance_scale is None else replace(config.guidance, guidance_scale=guidance_scale)
    given = {"num_inference_steps": num_inference_steps, "seed": seed}
    return replace(config, guidance=guidance, **{name: value for name, value in given.items() if value is not None})


def one_each(prompts: str | Sequence[str], images: int) -> list[str]:
    """A prompt for each image, so that each is an edit of its own. InputError for another number, or no texts."""
    require_texts(prompts, "prompts")
    given = [prompts] if isinstance(prompts, str) else list(prompts)
    if len(given) not in (1, images):
        raise InputError(f"{len(given)} prompts for {images} images: give one, or one for each image")
    return given * (images // len(given))


def tensor(image: Any, name: str, processor: VaeImageProcessor) -> torch.Tensor:
    """(b, 3, h, w) or, of masks, (b, 1, h, w) in [0, 1]. InputError for what is no image, or of several sizes."""
    several = image if isinstance(image, list | tuple) else [image]
    if processor is IMAGES and any(getattr(x, "mode", "") in ("RGBA", "LA", "PA") for x in several):
        warnings.warn(f"{name} has transparency, which the result has not: cpds image keeps it", stacklevel=3)
    try:
        found = processor.preprocess(image).float().contiguous()  # as cpds has them: layouts round differently
    except (ValueError, TypeError, RuntimeError, AttributeError) as err:
        raise InputError(f"{name} cannot be used ({err}): give images of one size") from err
    channels = 3 if processor is IMAGES else 1
    if found.ndim != 4 or found.shape[1] != channels or not (found.min() >= 0 and found.max() <= 1):
        raise InputError(
            f"{name} is {tuple(found.shape)} with values {found.min():.3g} ... {found.max():.3g}: "
            f"it needs {channels} channels and values in 0 ... 1"
        )
    return found
