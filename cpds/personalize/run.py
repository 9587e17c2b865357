"""A personalization from its images to its result, in a folder of its own."""

import hashlib
import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from cpds.errors import InputError
from cpds.image_files import find_images
from cpds.personalize.config import DreamBoothConfig
from cpds.personalize.pictures import class_files, encoded, make_class_images, side_of
from cpds.personalize.training import Batches, Training
from cpds.priors.diffusers_prior import DiffusersPrior
from cpds.priors.load import load_prior, resolve_device
from cpds.priors.options import PriorOptions
from cpds.runs import RunFolder
from cpds.stored import differences, encode, read_object

SETTINGS, CLASS = "dreambooth.json", "class"
LONGER = ("steps", "checkpoint_every", "sample_every")  # settings that a resumed run may change
DTYPES = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}


def dreambooth(
    instances: Path,
    out: Path,
    config: DreamBoothConfig,
    *,
    prior: str | None = None,
    prior_config: str | None = None,
    device: str = "auto",
    class_folder: Path | None = None,
    resume: bool = False,
) -> Path:
    """Teach `prior` (as `load_prior` takes it) the subject of `instances`, an image or a folder of them.

    The run is in the folder `out`: metrics.jsonl, samples/, class/ (unless `class_folder` names another place), and
    the result, whose path is returned: pytorch_lora_weights.safetensors, or with config.full the folder prior. With
    `resume` it goes on where its checkpoint ends; on the CPU with the result of an uninterrupted run. Started by
    accelerate's launcher it runs on several devices. Raises InputError for what cannot be used.
    """
    AcceleratorState._reset_state()  # it would keep the precision of the first run of a program
    unused = DistributedDataParallelKwargs(find_unused_parameters=config.train_text_encoder)  # SDXL reads no last layer
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, cpu=device == "cpu", device_placement=False, kwargs_handlers=[unused]
    )
    where = accelerator.device if accelerator.num_processes > 1 else resolve_device(device)
    options = PriorOptions(
        torch_dtype="fp32" if config.full else DTYPES[config.mixed_precision],  # pyright: ignore[reportArgumentType]
        keep_text_encoders=config.train_text_encoder,
        prior_config=prior_config,
    )
    files = find_images(instances)
    loaded = load_prior(prior, device=str(where), options=options)
    assert isinstance(loaded, DiffusersPrior)
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
