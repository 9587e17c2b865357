"""A personalization from its images to its result, in a folder of its own."""

import hashlib
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from cpds.config import require
from cpds.errors import InputError
from cpds.guidance_scale import chosen_scale
from cpds.image_files import find_images
from cpds.images import open_image
from cpds.locks import held
from cpds.personalize.config import DreamBoothConfig
from cpds.personalize.loss import require_trainable
from cpds.personalize.pictures import GUIDANCE, class_files, encoded, make_class_images, side_of
from cpds.personalize.place import SETTINGS, claim, finish, is_finished, require_place
from cpds.personalize.result import LORA, PRIOR
from cpds.personalize.training import Batches, Training
from cpds.priors.diffusers_prior import DiffusersPrior
from cpds.priors.load import EMBEDDED, load_prior, resolve_device
from cpds.priors.options import PLAIN, PriorOptions
from cpds.runs import RunFolder
from cpds.stored import encode
from cpds.terminal import print_status

CLASS = "class"
DTYPES = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}
NOT_TRAINED = ("torch_dtype", "low_memory", "offload", "quantize")  # of a prior's options


def dreambooth(
    instances: Path,
    out: Path,
    config: DreamBoothConfig,
    *,
    prior: str | None = None,
    options: PriorOptions = PLAIN,
    device: str = "auto",
    class_folder: Path | None = None,
    resume: bool = False,
) -> Path:
    """Teach `prior` (as `load_prior` takes it and its options) the subject of `instances`, an image or a folder.

    The run is in the folder `out`: metrics.jsonl, samples/, class/ (unless `class_folder` names another place), and
    the result, whose path is returned: pytorch_lora_weights.safetensors, or with config.full the folder prior. With
    `resume` it goes on where its checkpoint ends; on the CPU with the result of an uninterrupted run. Started by
    accelerate's launcher it runs on several devices. Raises InputError for what cannot be used.
    """
    require(
        class_folder is None or config.class_prompt is not None,
        "class_folder without class_prompt would do nothing: give a class_prompt, or leave it out",
    )
    options = of_training(options, config)
    unused = DistributedDataParallelKwargs(find_unused_parameters=config.train_text_encoder)  # SDXL reads no last layer
    accelerator = Accelerator(
        mixed_precision="no",  # accelerate has one for a whole program: the training sees to its own
        cpu=device == "cpu",
        device_placement=False,
        kwargs_handlers=[unused],
    )
    with held(out, SETTINGS) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            require_place(out, resume=resume)
        where = accelerator.device if accelerator.num_processes > 1 else resolve_device(device)
        files, made = find_images(instances), []
        if config.class_prompt is not None:
            made = class_files(class_folder or out / CLASS, config.class_images)
        for file in (*files, *(f for f in made if f.exists())):
            open_image(file)  # damaged ones are told before the prior is loaded and anything is written
        loaded = load_prior(prior or EMBEDDED, device=str(where), options=options)  # the result is saved as diffusers'
        assert isinstance(loaded, DiffusersPrior)
        return learned(loaded, files, made, out, config, accelerator, resume=resume)


def learned(
    prior: DiffusersPrior,
    files: list[Path],
    made: list[Path],
    out: Path,
    config: DreamBoothConfig,
    accelerator: Accelerator,
    *,
    resume: bool,
) -> Path:
    """What `dreambooth` does with a prior that is loaded; `made` are the class images, there or yet to be made."""
    require_trainable(prior, config)
    config = replace(config, guidance_scale=chosen_scale(prior, "target", config.guidance_scale, GUIDANCE))
    side, result = side_of(prior, config.resolution), out / (PRIOR if config.full else LORA)
    if accelerator.is_main_process:
        images = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        claim(out, {**encode(config), "prior": prior.fingerprint, "images": images}, resume=resume)
    accelerator.wait_for_everyone()
    if is_finished(out, config.steps):
        if accelerator.is_main_process:
            print_status(f"{out} is already finished")
        return result
    classes = None
    if config.class_prompt is not None:
        mine = made[accelerator.process_index :: accelerator.num_processes]
        make_class_images(prior, config.class_prompt, mine, side, config.guidance_scale, config.seed)
        accelerator.wait_for_everyone()
        classes = encoded(prior, made, side)
    batches = Batches(config, encoded(prior, files, side), classes)
    Training(prior, batches, accelerator, RunFolder(out)).run(resume=resume)
    if accelerator.is_main_process:
        finish(out)
    return result


def of_training(options: PriorOptions, config: DreamBoothConfig) -> PriorOptions:
    """The options in the precision that the training wants. InputError for those that only an edit can have."""
    plain = {f.name: f.default for f in fields(PriorOptions)}
    if given := [name for name in NOT_TRAINED if getattr(options, name) != plain[name]]:
        raise InputError(
            f"{', '.join(given)} cannot be had while a prior is trained: leave it out; gradient_checkpointing and "
            "mixed_precision bf16 save memory"
        )
    return replace(
        options,
        torch_dtype="fp32" if config.full else DTYPES[config.mixed_precision],
        keep_text_encoders=options.keep_text_encoders or config.train_text_encoder,
    )
