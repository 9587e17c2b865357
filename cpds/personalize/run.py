"""A personalization from its images to its result, in a folder of its own."""

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from cpds.errors import InputError
from cpds.guidance_scale import chosen_scale
from cpds.image_files import find_images
from cpds.personalize.config import DreamBoothConfig
from cpds.personalize.pictures import GUIDANCE, class_files, encoded, make_class_images, side_of
from cpds.personalize.training import Batches, Training
from cpds.priors.diffusers_prior import DiffusersPrior
from cpds.priors.load import EMBEDDED, load_prior, resolve_device
from cpds.priors.options import PLAIN, PriorOptions
from cpds.runs import RunFolder
from cpds.stored import differences, encode, read_object

SETTINGS, CLASS = "dreambooth.json", "class"
LONGER = ("steps", "checkpoint_every", "sample_every")  # settings that a resumed run may change
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
    options = of_training(options, config)
    unused = DistributedDataParallelKwargs(find_unused_parameters=config.train_text_encoder)  # SDXL reads no last layer
    accelerator = Accelerator(
        mixed_precision="no",  # accelerate has one for a whole program: the training sees to its own
        cpu=device == "cpu",
        device_placement=False,
        kwargs_handlers=[unused],
    )
    where = accelerator.device if accelerator.num_processes > 1 else resolve_device(device)
    files = find_images(instances)
    loaded = load_prior(prior or EMBEDDED, device=str(where), options=options)  # the result is saved as diffusers'
    assert isinstance(loaded, DiffusersPrior)
    scale = chosen_scale(loaded, "target", config.guidance_scale, GUIDANCE)
    config = replace(config, guidance_scale=scale)
    side = side_of(loaded, config.resolution)
    settings = {
        **encode(config),
        "prior": loaded.fingerprint,
        "images": hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest(),
    }
    if accelerator.is_main_process:
        claim(out, settings, resume=resume)
    accelerator.wait_for_everyone()
    classes = None
    if config.class_prompt is not None:
        made = class_files(class_folder or out / CLASS, config.class_images)
        mine = made[accelerator.process_index :: accelerator.num_processes]
        make_class_images(loaded, config.class_prompt, mine, side, config.guidance_scale)
        accelerator.wait_for_everyone()
        classes = encoded(loaded, made, side)
    batches = Batches(config, encoded(loaded, files, side), classes)
    return Training(loaded, batches, accelerator, RunFolder(out)).run(resume=resume)


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


def claim(out: Path, settings: dict[str, Any], *, resume: bool) -> None:
    """Note a new run's settings in its folder, or check those of the run that goes on there. InputError otherwise."""
    file = out / SETTINGS
    if resume and not file.is_file():
        raise InputError(f"there is no run to resume in {out}: check the path, or start a run anew")
    if not resume and file.exists():
        raise InputError(f"{out} already holds {SETTINGS}: resume what is there, or choose another folder")
    if resume:
        before = read_object(file)
        old, new = ({k: v for k, v in each.items() if k not in LONGER} for each in (before, settings))
        changed = differences(old, new)
        if changed:
            raise InputError(f"cannot resume {out} with changed settings ({'; '.join(changed)}): use the old ones")
    try:
        out.mkdir(parents=True, exist_ok=True)
        RunFolder(out).write(SETTINGS, json.dumps(settings, indent=2).encode())
    except OSError as err:
        raise InputError(f"output folder {out} cannot be written ({err.strerror}): choose another") from err
