"""Priors and devices that cannot be used: one sentence that names what is wrong."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import randn
from safetensors.torch import load_file, save_file

from cpds.errors import InputError
from cpds.priors.load import load_prior, resolve_device
from cpds.priors.options import PriorOptions
from cpds.priors.unet import UNetPrior


def rewrite_index(folder: Path, change: Callable[[dict], object]) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    change(index)
    (folder / "model_index.json").write_text(json.dumps(index))


def weights(folder: Path, part: str) -> Path:
    (file,) = (folder / part).glob("*.safetensors")
    return file


def pickled(folder: Path, part: str) -> None:
    file = weights(folder, part)
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()


def drop_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file, metadata={"format": "pt"})


PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
NETWORKS = PARTS[:3]
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    **{f"no {p}": (lambda f, p=p: shutil.rmtree(f / p), p) for p in PARTS},
    **{f"{p} empty": (lambda f, p=p: (shutil.rmtree(f / p), (f / p).mkdir()), p) for p in PARTS},
    **{f"{p} unlisted": (lambda f, p=p: rewrite_index(f, lambda i: i.pop(p)), p) for p in PARTS},
    **{f"{p} null": (lambda f, p=p: rewrite_index(f, lambda i: i.update({p: [None, None]})), p) for p in NETWORKS},
    **{f"{p} without weights": (lambda f, p=p: weights(f, p).unlink(), p) for p in NETWORKS},
    **{f"{p} with garbage": (lambda f, p=p: weights(f, p).write_bytes(b"garbage" * 9), "cannot") for p in NETWORKS},
    **{f"{p} cut": (lambda f, p=p: os.truncate(weights(f, p), 2000), "cannot be loaded") for p in NETWORKS},
    **{f"{p} lacks a tensor": (lambda f, p=p: drop_a_tensor(weights(f, p)), p) for p in ("unet", "vae")},
    **{f"{p} without config": (lambda f, p=p: (f / p / "config.json").unlink(), "cannot") for p in NETWORKS},
    "no index": (lambda f: (f / "model_index.json").unlink(), "model_index.json"),
    "index is no JSON": (lambda f: (f / "model_index.json").write_text("{"), "not valid JSON"),
    "index is garbage": (lambda f: (f / "model_index.json").write_bytes(b"\xff\x00garbage"), "not valid JSON"),
    **{
        f"index is {text}": (lambda f, t=text: (f / "model_index.json").write_text(t), "not a JSON object")
        for text in ("[]", "null", "5", '"unet"')
    },
    "index is empty": (lambda f: (f / "model_index.json").write_text("{}"), "cannot be loaded"),
    **{f"{p} pickled": (lambda f, p=p: pickled(f, p), f"holds {p}/") for p in NETWORKS},
    "unknown family": (
        lambda f: rewrite_index(f, lambda i: i.update(_class_name="StableCascadeDecoderPipeline")),
        "it is a StableCascadeDecoderPipeline, and the families are StableDiffusionPipeline, StableDiffusionXLPipeline",
    ),
    "another family": (
        lambda f: rewrite_index(f, lambda i: i.update(_class_name="StableDiffusionXLPipeline")),
        "StableDiffusionXLPipeline",
    ),
    "unknown prediction": (
        lambda f: (f / "scheduler/scheduler_config.json").write_text(
            (f / "scheduler/scheduler_config.json").read_text().replace("epsilon", "sample")
        ),
        "'sample'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_priors(refused: Callable, tmp_path: Path, tiny_folder: Path, damage: str) -> None:
    shutil.copytree(tiny_folder, tmp_path / "damaged")
    break_it, words = DAMAGE[damage]
    break_it(tmp_path / "damaged")
    refused("prior", "damaged", words, prior=tmp_path / "damaged")


def test_pickles_of_a_folder_are_refused_with_a_conversion(
    prior: UNetPrior, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that the message names makes a folder that loads."""
    shutil.copytree(tiny_folder, tmp_path / "old")
    for part, name in (("unet", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")):
        file = weights(tmp_path / "old", part)
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    with pytest.raises(InputError, match=r"holds \w+/\w+\.bin, a pickle, which can run any program") as refused:
        load_prior(tmp_path / "old", device="cpu")
    program, *argv = re.findall(r'python -c "(.*)" (\S+) (\S+)$', str(refused.value))[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["-c", *argv])
    exec(program, {})
    converted, x, t = load_prior(tmp_path / "old-safetensors", device="cpu"), randn(0, 1, 4, 8, 8), torch.tensor([400])
    one, two = (p.denoise(x, t, p.embed(["a cat"])).eps for p in (prior, converted))
    assert torch.equal(one, two)


def test_a_pickle_is_no_transformer(tiny_folder: Path, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"net\.pt is a pickle, which can run any program"):
        load_prior(tiny_folder, device="cpu", options=PriorOptions(transformer=str(tmp_path / "net.pt")))


@pytest.mark.parametrize("name", ["nobody/has-this", "no such name", "/no/such/folder", "cat.png", "x" * 300])
def test_unknown_priors(refused: Callable, name: str) -> None:
    refused(name, "local folder", prior=name)


def test_a_folder_that_is_no_pipeline(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    refused("photos", "model_index.json", "diffusers' layout", prior=tmp_path / "photos")


@pytest.mark.parametrize("device", ["cuda:99", "foo", "meta", "cpu:x", ""])  # absent, unknown, without memory, misspelt
def test_absent_devices(refused: Callable, device: str) -> None:
    refused("device", repr(device), "auto", device=device)


def test_a_device_that_is_not_here_is_answered_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"'cuda:7' is not usable here: take auto, cpu(, mps)?, cuda:0, cuda:1$"):
        resolve_device("cuda:7")
