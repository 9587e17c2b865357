"""The embedded prior's own networks and tokenizer: diffusers' and transformers' results to the last bit, sooner."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import randn
from torch import Tensor

from cpds.priors.base import Conditioning
from cpds.priors.embedded import EMBEDDED, EmbeddedPrior
from cpds.priors.load import load_prior
from cpds.priors.options import PriorOptions
from cpds.priors.unet import UNetPrior

HEAVY = {"diffusers", "transformers", "peft", "accelerate", "scipy", "sympy", "torchvision", "torch._dynamo"}
PROMPTS = [
    "a cat face on a blue background",
    "",
    "Ünïcode  ETC: 123's, <|endoftext|> \n<3 \U0001f431",
    "a red heart " * 12,
]


@pytest.fixture(scope="module")
def ours() -> UNetPrior:
    prior = load_prior(device="cpu")
    assert isinstance(prior, EmbeddedPrior)
    return prior


@pytest.fixture(scope="module")
def theirs() -> UNetPrior:
    prior = load_prior(EMBEDDED, device="cpu")
    assert isinstance(prior, UNetPrior)
    assert not isinstance(prior, EmbeddedPrior)
    return prior


def test_facts_and_weights_are_the_same(ours: UNetPrior, theirs: UNetPrior) -> None:
    names = ("fingerprint", "image_size", "size_multiple", "feature_width", "parameters", "guidance", "vae_factor")
    assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
    for table in ("alpha", "sigma"):
        assert torch.equal(getattr(ours.schedule, table), getattr(theirs.schedule, table))
    assert ours.schedule.parameterization == theirs.schedule.parameterization
    for part in ("unet", "vae", "text_encoder"):
        mine, other = (dict(getattr(prior.pipeline, part).state_dict()) for prior in (ours, theirs))
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.filterwarnings("ignore:prompt is longer")
def test_prompts_are_encoded_alike(ours: UNetPrior, theirs: UNetPrior) -> None:
    assert torch.equal(ours.ids(PROMPTS), theirs.ids(PROMPTS))
    assert torch.equal(ours.embed(PROMPTS)["embeds"], theirs.embed(PROMPTS)["embeds"])


def test_a_long_prompt_is_cut_in_the_same_words(ours: UNetPrior, theirs: UNetPrior) -> None:
    said = []
    for prior in (ours, theirs):
        with pytest.warns(UserWarning, match="prompt is longer than the 30 tokens") as found:
            prior.embed([PROMPTS[-1]])
        said.append(str(found[0].message))
    assert said[0] == said[1]


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (10, 14)])
def test_predictions_features_and_gradients_are_the_same(
    ours: UNetPrior, theirs: UNetPrior, rows: int, columns: int
) -> None:
    found: list[list[Tensor]] = []
    for prior in (ours, theirs):
        x = randn(0, 3, 8, rows, columns).requires_grad_()
        t = torch.tensor([20, 500, 999])
        conditioning = Conditioning({"embeds": randn(1, 3, 32, 128)})
        prediction = prior.denoise(x, t, conditioning, tap=len(x))
        sum(f.square().sum() for f in prediction.features).backward()  # pyright: ignore[reportAttributeAccessIssue]
        assert x.grad is not None
        found.append([prediction.eps, *prediction.features, x.grad])
    assert len(found[0]) == len(found[1]) == 8
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_images_are_encoded_and_decoded_alike(ours: UNetPrior, theirs: UNetPrior) -> None:
    found: list[list[Tensor]] = []
    for prior in (ours, theirs):
        image = randn(2, 1, 3, 48, 64).sigmoid().requires_grad_()
        z = prior.encode(image)
        z.square().sum().backward()
        assert image.grad is not None
        found.append([z, image.grad, prior.decode(z.detach())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("options", [{"vae_tiling": True}, {"low_memory": True}, {"attention_backend": "native"}])
def test_diffusers_does_what_it_is_asked_for(options: dict) -> None:
    assert not isinstance(load_prior(device="cpu", options=PriorOptions(**options)), EmbeddedPrior)


def test_half_precision_and_few_steps_are_for_our_own_networks() -> None:
    prior = load_prior(device="cpu", options=PriorOptions(torch_dtype="bf16", few_step=True))
    assert isinstance(prior, EmbeddedPrior)
    assert prior.net.dtype == torch.bfloat16
    assert prior.guidance == "none"


def test_the_demo_imports_no_heavy_library(tmp_path: Path) -> None:
    """Their import took longer than all else before the first step."""
    demo = EMBEDDED.parent / "demo" / "cat.png"
    flags = ["--target_prompt", "a dog face", "--device", "cpu", "--num_inference_steps", "1", "--resolution", "64"]
    argv = ["image", "--img_path", str(demo), "--prompt", "a cat face", *flags, "--save_path", str(tmp_path / "run")]
    code = (
        f"import sys; from cpds.apps.cli.main import main; code = main({argv!r}); "
        f"print(code, sorted({HEAVY!r} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
