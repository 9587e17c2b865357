"""What a personalization leaves: checkpoints while it runs, then a LoRA or a whole prior, in diffusers' formats."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from cpds.errors import InputError
from cpds.moments import load_moments, moments
from cpds.personalize.loss import Subject
from cpds.priors.adapters import LORA_NAME, PRIOR_NAME

OF_SCALER = ("scale", "_growth_tracker")  # of a GradScaler's state, what changes
CHECKPOINT, LORA, PRIOR = "checkpoint.safetensors", LORA_NAME, PRIOR_NAME


def save_checkpoint(file: Path, subject: Subject, optimizer: Optimizer, scaler: GradScaler, step: int) -> None:
    """Trained parameters, moments, the loss's scale and step; a crash leaves the old file or the new one."""
    tensors = {f"param.{name}": x.detach() for name, x in subject.trained.items()}
    tensors |= {f"optimizer.{name}": x for name, x in moments(optimizer).items()}
    scale = scaler.state_dict()  # empty unless it is in use
    tensors |= {f"scaler.{name}": torch.tensor(scale[name]) for name in OF_SCALER if name in scale}
    part = file.with_name(file.name + ".part")
    whole: Mapping[str, Tensor] = {name: x.cpu().contiguous() for name, x in tensors.items()}
    save_file(dict(whole), part, {"step": str(step)})
    make_readable(part)
    os.replace(part, file)


def make_readable(file: Path) -> None:
    """Give a file of safetensors, which writes for its user alone, the mode that other files get."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)


def load_checkpoint(file: Path, subject: Subject, optimizer: Optimizer, scaler: GradScaler) -> int:
    """Go on from what `save_checkpoint` wrote; its step. InputError for what is none of this run."""
    from safetensors import safe_open

    trained = subject.trained
    try:
        with safe_open(file, "pt") as stream:
            step = int(stream.metadata()["step"])
        saved = load_file(file)
        if {k.removeprefix("param.") for k in saved if k.startswith("param.")} != trained.keys():
            raise ValueError("it holds other parameters")
        for name, x in trained.items():
            x.data.copy_(saved[f"param.{name}"])
        load_moments(optimizer, {k.removeprefix("optimizer."): v for k, v in saved.items() if k.startswith("opt")})
        if scaler.is_enabled():
            scaler.load_state_dict(scaler.state_dict() | {name: saved[f"scaler.{name}"].item() for name in OF_SCALER})
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as err:
        raise InputError(f"{file} is damaged or of another run ({err}): start the run anew elsewhere") from err
    return step


def save_result(out: Path, subject: Subject) -> None:
    """Write the LoRA file, or the folder of the whole prior, in `out`; it replaces an older one when it is whole."""
    part, pipeline = out / "result.part", subject.prior.pipeline
    shutil.rmtree(part, ignore_errors=True)
    if subject.config.full:
        subject.prior.with_text_encoders().save_pretrained(part)
        for file in part.rglob("*.safetensors"):
            make_readable(file)
        shutil.rmtree(out / PRIOR, ignore_errors=True)
        part.rename(out / PRIOR)
        return
    from peft import get_peft_model_state_dict

    layers: dict[str, Any] = {}
    for name, module in {subject.prior.network: subject.net, **subject.text}.items():
        layers[f"{name}_lora_layers"] = get_peft_model_state_dict(module)
        layers[f"{name}_lora_adapter_metadata"] = module.peft_config["default"].to_dict()
    type(pipeline).save_lora_weights(part, **layers)
    make_readable(part / LORA)
    os.replace(part / LORA, out / LORA)
    part.rmdir()
