"""The nodes, in ComfyUI's V3 schema: load a prior, edit images, edit an SVG."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy import model_management
from comfy.utils import ProgressBar
from comfy_api.latest import ComfyExtension, io

from cpds import PRESETS, EditConfig, EditState, InputError, Prior, PriorOptions, edit, load_prior
from cpds.apps.cli.priors import SIZES
from cpds.guidance import StepResult
from cpds.images import to_pil
from cpds.presets import PRESETS_FOR
from cpds.state import preview_of
from representations.latent import LatentImage, LatentImageConfig

CPDSPrior = io.Custom("CPDS_PRIOR")
PREVIEWS = 8  # images of the trajectory, shown while an edit runs
PREVIEW_SIDE = 512  # px, at most
MAX_SEED = 2**32 - 1


def priors() -> dict[str, str | None]:
    """What the menu names, and what `load_prior` takes for it: our own, then those of ComfyUI's models folder."""
    found: dict[str, str | None] = {"embedded": None}
    found |= {row["name"]: row["name"] for row in json.loads(SIZES.read_text())}
    for name in folder_paths.get_filename_list("checkpoints"):
        if name.endswith(".safetensors"):  # others are pickles, which cpds does not read
            found.setdefault(name, folder_paths.get_full_path("checkpoints", name))
    for root in folder_paths.get_folder_paths("diffusers"):
        for index in sorted(Path(root).rglob("model_index.json")):
            found.setdefault(index.parent.relative_to(root).as_posix(), str(index.parent))
    return found


def edit_inputs(kind: str) -> list[io.Input]:
    """The inputs that both edits have; `kind` is what PRESETS_FOR calls what is edited."""
    return [
        io.String.Input("prompt", multiline=True, tooltip="What it shows."),
        io.String.Input("target_prompt", multiline=True, tooltip="What it should become."),
        io.Combo.Input("preset", options=list(PRESETS_FOR[kind]), tooltip="`cpds presets` says what each of them is."),
        io.Float.Input(
            "guidance_scale",
            default=0.0,
            min=0.0,
            max=200.0,
            step=0.1,
            tooltip="How strongly the target prompt is followed; 0: the preset's.",
        ),
        io.Int.Input("steps", default=0, min=0, max=100_000, tooltip="0: the preset's."),
        io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True),
    ]


def config_of(preset: str, guidance_scale: float, steps: int, seed: int) -> EditConfig:
    """The preset's settings with those of the others that are not 0."""
    config = PRESETS[preset]
    guidance = replace(config.guidance, guidance_scale=guidance_scale) if guidance_scale else config.guidance
    return replace(config, guidance=guidance, num_inference_steps=steps or config.num_inference_steps, seed=seed)


def require_prompts(prompt: str, target_prompt: str) -> None:
    """InputError where one says nothing."""
    for name, text in (("prompt", prompt), ("target_prompt", target_prompt)):
        if not text.strip():
            raise InputError(f"{name} is empty: say in words what the image shows, and what it should become")


@contextmanager
def gradients() -> Iterator[None]:
    """ComfyUI runs nodes in inference mode, whose tensors no gradient can reach."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


class Watch:
    """Shows ComfyUI how far an edit is, and stops it when the user does."""

    def started(self, state: EditState) -> None:
        self.bar = ProgressBar(sum(part.config.num_inference_steps for part in state.parts))

    def stepped(self, state: EditState, result: StepResult) -> None:
        self.show(state, state)

    def led(self, state: EditState) -> None:
        self.show(state, state.parts[0])

    def show(self, state: EditState, running: EditState) -> None:
        """How far all of it is, with a look at the part that runs."""
        model_management.throw_exception_if_processing_interrupted()
        step = sum(part.step for part in state.parts)
        shown = step % max(1, self.bar.total // PREVIEWS) == 0
        preview = ("JPEG", to_pil(preview_of(running)[:1]), PREVIEW_SIDE) if shown else None
        self.bar.update_absolute(step, preview=preview)

    def finished(self, state: EditState) -> None:
        pass


class LoadPrior(io.ComfyNode):
    """A diffusion prior that cpds has loaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CPDSLoadPrior",
            display_name="CPDS Load Prior",
            category="CPDS",
            description="A diffusion prior for edits: cpds's own, a hub name, or what is in ComfyUI's models folder.",
            inputs=[
                io.Combo.Input("prior", options=list(priors()), tooltip="embedded knows icons on plain backgrounds."),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Instead of the menu's: a hub name, a folder in diffusers' layout or a .safetensors file.",
                ),
                io.Combo.Input("torch_dtype", options=["auto", "fp32", "fp16", "bf16"]),
                io.Boolean.Input("low_memory", default=False, tooltip="Slower, for priors that do not fit."),
            ],
            outputs=[CPDSPrior.Output("cpds_prior", display_name="prior")],
        )

    @classmethod
    def execute(cls, prior: str, name: str, torch_dtype: Any, low_memory: bool) -> io.NodeOutput:
        model_management.unload_all_models()  # ComfyUI does not count what ours takes
        model_management.soft_empty_cache()
        with gradients():
            device = str(model_management.get_torch_device())
            options = PriorOptions(torch_dtype=torch_dtype, low_memory=low_memory)
            return io.NodeOutput(load_prior(name.strip() or priors()[prior], device=device, options=options))


class EditImage(io.ComfyNode):
    """Images edited by prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CPDSEditImage",
            display_name="CPDS Edit Image",
            category="CPDS",
            description="Images edited from what one prompt says to what another says, at their own size.",
            inputs=[
                CPDSPrior.Input("prior"),
                io.Image.Input("image"),
                *edit_inputs("image"),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Shorter side while editing, in px; 0: what the prior was trained on.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="White may change, black is held."),
            ],
            outputs=[io.Image.Output("edited", display_name="image")],
        )

    @classmethod
    def execute(
        cls,
        prior: Prior,
        image: torch.Tensor,
        prompt: str,
        target_prompt: str,
        preset: str,
        guidance_scale: float,
        steps: int,
        seed: int,
        resolution: int,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """`image` (b, h, w, c) and `mask` (1 or b, h, w) in [0, 1]."""
        require_prompts(prompt, target_prompt)
        with gradients():
            images = image[..., :3].permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
            held = None if mask is None else mask_of(mask, images)
            latent = LatentImage(images, prior, LatentImageConfig(resolution or None), held)
            prompts = [prompt] * len(images), [target_prompt] * len(images)  # an edit of its own for each image
            state = edit(latent, prior, *prompts, config_of(preset, guidance_scale, steps, seed), [Watch()])
            return io.NodeOutput(preview_of(state).permute(0, 2, 3, 1).cpu().contiguous())


def mask_of(mask: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """(1 or b, 1, h, w). InputError for one that lets nothing change, or is not of the images' size and number."""
    held = mask.reshape(-1, 1, *mask.shape[-2:]).clone()
    if not held.any():  # what Load Image gives where nothing is painted
        raise InputError("the mask is empty: paint what may change, or leave it unconnected")
    if held.shape[-2:] != images.shape[-2:] or len(held) not in (1, len(images)):
        found, wanted = (f"{len(x)} of {x.shape[-1]}x{x.shape[-2]} px" for x in (held, images))
        raise InputError(
            f"the mask is {found} but the image is {wanted}: make them alike, with one mask or one for each"
        )
    return held


class EditSVG(io.ComfyNode):
    """An SVG edited by prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CPDSEditSVG",
            display_name="CPDS Edit SVG",
            category="CPDS",
            description="An SVG edited by prompt: the same elements with other numbers, and what it looks like.",
            inputs=[
                CPDSPrior.Input("prior"),
                io.String.Input("svg", multiline=True, tooltip="The document's text."),
                *edit_inputs("svg"),
                io.String.Input("only", default="", tooltip="Ids or classes that may change, such as #face .skin"),
                io.Combo.Input("style", options=["none", "iconography", "pixelart"]),
            ],
            outputs=[io.String.Output("edited", display_name="svg"), io.Image.Output("preview")],
        )

    @classmethod
    def execute(
        cls,
        prior: Prior,
        svg: str,
        prompt: str,
        target_prompt: str,
        preset: str,
        guidance_scale: float,
        steps: int,
        seed: int,
        only: str,
        style: Any,
    ) -> io.NodeOutput:
        """The document's text, and the page (1, h, w, 3) in [0, 1], longer side 512 px."""
        from svg.config import SvgConfig
        from svg.document import Document
        from svg.image import SvgImage

        require_prompts(prompt, target_prompt)
        with gradients():
            config = SvgConfig(style=style, only=tuple(only.split()))
            page = SvgImage(Document.parse(svg.encode(), "the SVG"), prior, config)
            prompts = (prompt + config.suffix, target_prompt + config.suffix)
            edit(page, prior, *prompts, config_of(preset, guidance_scale, steps, seed), [Watch()])
            return io.NodeOutput(page.svg().decode(), page.preview().permute(0, 2, 3, 1).cpu().contiguous())


class CPDSExtension(ComfyExtension):
    """What this folder adds to ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadPrior, EditImage, EditSVG]


async def comfy_entrypoint() -> CPDSExtension:
    """ComfyUI calls this to load the nodes."""
    return CPDSExtension()
