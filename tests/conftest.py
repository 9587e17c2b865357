"""A tiny Stable Diffusion pipeline built from configs, with random weights, in a folder of its own."""

import hashlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from labelled_device import labelled_device
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ViTConfig,
    ViTModel,
)

from cpds.apps.cli.main import main
from cpds.callbacks import MetricsLog
from cpds.guidance import StepResult
from cpds.priors.base import Prior
from cpds.priors.load import load_prior
from cpds.priors.options import PriorOptions
from cpds.priors.unet import UNetPrior
from cpds.rendered import fingerprint
from cpds.representation import ParamGroup
from cpds.state import EditState

pytest_plugins = ["scenes", "tiny_priors", "devices"]

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # commands leave it at that


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Byte-level vocabulary without merges: every letter is a token."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=32)


def build_pipeline(folder: Path, prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    """Two-scale UNet (8 and 16 channels), 4x autoencoder, one-layer text encoder; seeded."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "_tokenizer")
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    scheduler = DDIMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, steps_offset=1, prediction_type=prediction_type
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline in diffusers' folder layout."""
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    build_pipeline(folder.parent / "build").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prior(tiny_folder: Path) -> UNetPrior:
    """The tiny pipeline, loaded the way a user's prior is."""
    loaded = load_prior(tiny_folder, device="cpu")
    assert isinstance(loaded, UNetPrior)
    return loaded


@pytest.fixture(scope="session")
def device_prior(tiny_folder: Path) -> UNetPrior:
    """The same on a GPU, as far as `labelled_device` has one."""
    with labelled_device():
        loaded = load_prior(tiny_folder, device="cuda:0", options=PriorOptions(torch_dtype="fp32"))
    assert isinstance(loaded, UNetPrior)
    return loaded


def alexnet() -> nn.Sequential:
    """torchvision's `alexnet().features`, random weights."""
    torch.manual_seed(0)
    relu, pool = nn.ReLU(), nn.MaxPool2d(3, 2)
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), relu, pool),
        *(nn.Conv2d(64, 192, 5, 1, 2), relu, pool),
        *(nn.Conv2d(192, 384, 3, 1, 1), relu),
        *(nn.Conv2d(384, 256, 3, 1, 1), relu),
        *(nn.Conv2d(256, 256, 3, 1, 1), relu, pool),
    )


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.safetensors"
    save_file({f"features.{k}": v for k, v in alexnet().state_dict().items()}, path)
    return path


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=224,
        patch_size=56,
    )
    folder = tmp_path_factory.mktemp("vit")
    ViTModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_tokenizer(folder / "vocabulary")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Plain:
    """Representation in latent space without any rendering: named tensors whose sum is the latent, and its source."""

    preset = "cpds"

    def __init__(self, source: Tensor, prior: Prior | None = None, **parts: Tensor) -> None:
        self.source, self.prior = source, prior
        self.parts = {k: v.clone().requires_grad_() for k, v in (parts or {"latent": source}).items()}

    def sample_view(self, step: int, generator: torch.Generator) -> None:
        return None

    def latents(self, view: None = None) -> Tensor:
        return torch.stack(list(self.parts.values())).sum(0)

    def source_latents(self, view: None = None) -> Tensor:
        return self.source

    @torch.no_grad()
    def move_latents(self, by: Tensor) -> None:
        next(iter(self.parts.values())).add_(by)

    def render(self, view: None = None) -> Tensor:
        assert self.prior is not None
        return self.prior.decode(self.latents())

    def param_groups(self) -> list[ParamGroup]:
        return [ParamGroup(name, [x], 0.1) for name, x in self.parts.items()]

    def project(self) -> None:
        pass

    def preview(self) -> Tensor:
        return self.render().detach()

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(source=self.source)


def randn(seed: int, *shape: int) -> Tensor:
    """Seeded normal numbers, float32."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Recorder:
    """Callback that keeps what `note` says of each step."""

    def __init__(self, note: Callable[[EditState, StepResult], Any]) -> None:
        self.note, self.notes = note, []

    def started(self, state: EditState) -> None:
        pass

    def stepped(self, state: EditState, result: StepResult) -> None:
        self.notes.append(self.note(state, result))

    def finished(self, state: EditState) -> None:
        pass


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    """A smooth 40x28 image."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 28), torch.linspace(0, 1, 40), indexing="ij")
    pixels = torch.stack([x, y, (x + y) / 2]).mul(200).byte()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def resuming(plain: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The flags of a command; those that resume the run in save_path if `changes` say resume=True."""
    if changes.get("resume") is not True:
        return plain | changes
    return {k: v for k, v in changes.items() if k != "save_path"} | {"resume": (plain | changes)["save_path"]}


@pytest.fixture
def command(tiny_folder: Path, image_file: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a short `cpds image`; keywords replace or add flags, None leaves one out, True is a bare flag.

    With resume=True those that go on with the run in save_path, and beside them only what the keywords say.
    """
    plain = {
        "img_path": image_file,
        "prompt": "a cat",
        "trg_prompt": "a dog",
        "prior": tiny_folder,
        "save_path": tmp_path / "out",
        "num_inference_steps": 3,
        "lr": 20,
        "n_patches": 8,
        "device": "cpu",
    }

    def build(**changes: Any) -> list[str]:
        argv = ["image"]
        for flag, value in resuming(plain, changes).items():
            if value is not None:
                values = [] if value is True else value if isinstance(value, list | tuple) else [value]
                argv += [f"--{flag}", *map(str, values)]
        return argv

    return build


@pytest.fixture
def edit(command: Callable[..., list[str]]) -> Callable[..., int]:
    """Run `cpds image` in this process; its exit code."""
    return lambda **changes: main(command(**changes))


# fields of a prior's options, of which test_cpds_priors_options.py shows what they do and that commands take them
PRIOR_OPTIONS = {f.name for f in fields(PriorOptions)} - {"torch_dtype"}

OTHER_OPTIONS: dict[str, Any] = {  # another value of each
    "torch_dtype": "bf16",
    "low_memory": True,
    "offload": "model",
    "vae_tiling": True,
    "vae_slicing": True,
    "attention_backend": "native",
    "compile": True,
    "quantize": "bnb_4bit",
    "transformer": "a",
    "tiny_vae": "b",
    "prior_config": "c",
    "keep_text_encoders": True,
    "lora": ("a.safetensors", "b/c:0.5"),
    "textual_inversion": ("d.safetensors",),
    "few_step": True,
}
assert OTHER_OPTIONS.keys() == {f.name for f in fields(PriorOptions)}

FILES = {  # of a finished run
    "result.png",
    "before_after.png",
    "trajectory.gif",
    "metrics.jsonl",
    "config.json",
    "checkpoint.safetensors",
    "frames",
    ".lock",
}
SEVERAL = {"plan.json", ".lock"}  # beside the folders of several edits


def steps_of(folder: Path) -> list[int]:
    """The steps in a run's log."""
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def snapshot(folder: Path) -> dict[str, str]:
    """Digest of every file, and the names of the folders."""
    return {
        str(p.relative_to(folder)): "folder" if p.is_dir() else hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
    }


@pytest.fixture
def sentence(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """The one line on standard error, progress bars aside."""

    def read() -> str:
        shown = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if line.strip()]
        lines = [line for line in shown if not re.search(r"\d%\|", line)]
        assert len(lines) == 1, lines
        assert lines[0].startswith("cpds: error: ")
        return lines[0]

    return read


@pytest.fixture
def refused(
    edit: Callable[..., int], tmp_path: Path, sentence: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Run `cpds image`, which must end with 2 and one sentence holding `words`, and leave every file as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # what the environment variable sets

    def check(*words: str, **changes: Any) -> None:
        before = snapshot(tmp_path)
        assert edit(**changes) == 2
        message = sentence()
        for word in words:
            assert word in message
        assert snapshot(tmp_path) == before

    return check


@pytest.fixture
def pressed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Any]:
    """`with pressed(3):` presses Ctrl-C after a run's third step."""

    @contextmanager
    def press(at: int) -> Iterator[None]:
        stepped = MetricsLog.stepped

        def and_press(self: MetricsLog, state: EditState, result: StepResult) -> None:
            stepped(self, state, result)
            if state.step == at:
                signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(MetricsLog, "stepped", and_press)
            yield

    return press
