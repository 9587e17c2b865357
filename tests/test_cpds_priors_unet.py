"""The UNet prior against its own networks, called by hand."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_pipeline, randn
from torch import Tensor

from cpds.errors import InputError
from cpds.priors.load import load_prior
from cpds.priors.options import PriorOptions
from cpds.priors.source import fingerprint_of
from cpds.priors.unet import UNetPrior
from cpds.schedule import NoiseSchedule

CPU = torch.device("cpu")


def picture(seed: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def v_prior(tmp_path_factory: pytest.TempPathFactory) -> UNetPrior:
    """The same weights, said to predict v."""
    folder = tmp_path_factory.mktemp("v")
    build_pipeline(folder / "build", "v_prediction").save_pretrained(folder / "tiny")
    loaded = load_prior(folder / "tiny", device="cpu")
    assert isinstance(loaded, UNetPrior)
    return loaded


def raw(prior: UNetPrior, x_t: Tensor, t: int, prompt: str) -> Tensor:
    """What the network itself says."""
    ids = prior.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = prior.text_encoder(ids).last_hidden_state
        return prior.unet(x_t, t, encoder_hidden_states=states.expand(len(x_t), -1, -1)).sample


@pytest.mark.parametrize("tap", [0, 2])
def test_denoise_is_the_networks_epsilon(prior: UNetPrior, tap: int) -> None:
    x_t = randn(0, 2, 4, 8, 8)
    got = prior.denoise(x_t, torch.tensor([300, 300]), prior.embed(["a cat", "a cat"]), tap=tap)
    torch.testing.assert_close(got.eps.detach(), raw(prior, x_t, 300, "a cat"))
    assert len(got.features) == (4 if tap else 0)


@pytest.mark.parametrize("t", [0, 300, 999])
def test_v_prediction_is_converted(prior: UNetPrior, v_prior: UNetPrior, t: int) -> None:
    assert v_prior.schedule.parameterization == "v_prediction"
    assert torch.equal(v_prior.unet.conv_in.weight, prior.unet.conv_in.weight)
    a, x_t = float(v_prior.schedule.alpha_bar[t]), randn(0, 1, 4, 8, 8)
    eps = v_prior.denoise(x_t, torch.tensor([t]), v_prior.embed(["a cat"])).eps
    torch.testing.assert_close(eps, a**0.5 * raw(v_prior, x_t, t, "a cat") + (1 - a) ** 0.5 * x_t)


def test_schedule_is_the_pipelines(prior: UNetPrior) -> None:
    """diffusers keeps alpha-bar in float32; PDS's weights are differences of it, and must survive that."""
    exact, t = NoiseSchedule.scaled_linear(), torch.tensor([21, 51, 501, 981])
    assert len(prior.schedule) == 1000
    for stride in (2, 20):
        for got, expected in zip(
            prior.schedule.posterior_weights(t, stride), exact.posterior_weights(t, stride), strict=True
        ):
            torch.testing.assert_close(got, expected, rtol=2e-3, atol=1e-4)


def test_sizes(prior: UNetPrior) -> None:
    assert prior.image_size == 32  # 8 latents of 4 px
    assert prior.size_multiple == 8  # 4 px a latent, halved once in the UNet
    assert prior.feature_width == 16


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 12), (14, 6)])
def test_taps_are_the_self_attentions_laid_out_as_pictures(prior: UNetPrior, height: int, width: int) -> None:
    rows: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _m, _a, out: rows.append(out))
        for name, module in prior.unet.named_modules()
        if name.startswith("up_blocks") and name.endswith("attn1.to_out.1")  # a projection, then dropout
    ]
    x_t, text = randn(0, 2, 4, height, width), prior.embed(["a cat", "a dog"])
    features = prior.denoise(x_t, torch.tensor([300, 300]), text, tap=2).features
    for handle in handles:
        handle.remove()
    small, large = (2, 16, height // 2, width // 2), (2, 8, height, width)
    assert [tuple(f.shape) for f in features] == [small, small, large, large]
    for feature, row in zip(features, rows, strict=True):
        for i in (0, feature.shape[2] - 1):
            for j in (0, feature.shape[3] - 1):
                assert torch.equal(feature[:, :, i, j], row[:, i * feature.shape[3] + j])


def test_encode_is_the_mean(prior: UNetPrior) -> None:
    images = picture(0, 32, 40)
    torch.manual_seed(1)
    first = prior.encode(images)
    torch.manual_seed(2)
    assert torch.equal(first, prior.encode(images))
    assert tuple(first.shape) == (1, 4, 8, 10)
    moments = prior.vae.quant_conv(prior.vae.encoder(2 * images - 1))
    torch.testing.assert_close(first, 0.5 * moments[:, :4])  # the tiny autoencoder's scaling factor


def test_encode_is_differentiable(prior: UNetPrior) -> None:
    images, weights = picture(0), randn(1, 1, 4, 8, 8)
    images.requires_grad_()
    (gradient,) = torch.autograd.grad((prior.encode(images) * weights).sum(), images)
    direction, h = randn(2, 1, 3, 32, 32), 1e-2
    with torch.no_grad():
        ends = [float((prior.encode(images + s * h * direction) * weights).sum()) for s in (-1, 1)]
    assert float((gradient * direction).sum()) == pytest.approx((ends[1] - ends[0]) / (2 * h), rel=2e-2)


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_decode_gives_colours(prior: UNetPrior, scale: float) -> None:
    images = prior.decode(scale * randn(0, 2, 4, 6, 8))
    assert tuple(images.shape) == (2, 3, 24, 32)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    undone = prior.vae.decode(scale * randn(0, 2, 4, 6, 8) / 0.5).sample
    torch.testing.assert_close(images, (undone + 1).div(2).clamp(0, 1))


@pytest.mark.parametrize("prompts", [["a cat"], ["", "a cat", "x" * 30]])
def test_embed_is_the_text_encoder_and_silent(prior: UNetPrior, prompts: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embeds = prior.embed(prompts)["embeds"]
    for prompt, row in zip(prompts, embeds, strict=True):
        ids = prior.tokenizer(prompt).input_ids
        ids += [prior.tokenizer.pad_token_id] * (32 - len(ids))
        torch.testing.assert_close(row, prior.text_encoder(torch.tensor([ids])).last_hidden_state[0])
    assert not embeds.requires_grad


def test_embed_names_what_is_cut(prior: UNetPrior) -> None:
    """Every letter of the tiny vocabulary is a token: 30 fit between start and end."""
    prompt = "abcdefghij" * 3 + "klm"
    with pytest.warns(UserWarning, match=r"longer than the 30 tokens the text encoder takes; cut: 'klm'") as caught:
        embeds = prior.embed([prompt, "a cat"])["embeds"]
    assert len(caught) == 1
    ids = prior.tokenizer(prompt).input_ids
    kept = torch.tensor([[*ids[:31], ids[-1]]])
    torch.testing.assert_close(embeds[0], prior.text_encoder(kept).last_hidden_state[0])


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        ("fp32", 1e-6),
        ("bf16", 8e-2),
        ("fp16", 1e-2),
    ],
)
def test_half_precision_is_near_and_speaks_float32(
    prior: UNetPrior, tiny_folder: Path, dtype: Any, tolerance: float
) -> None:
    loaded = load_prior(tiny_folder, device="cpu", options=PriorOptions(torch_dtype=dtype))
    images, t = picture(0), torch.tensor([300])

    def outputs(p: Any) -> list[Tensor]:
        z, text = p.encode(images), p.embed(["a cat"])
        prediction = p.denoise(randn(0, 1, 4, 8, 8), t, text, tap=1)
        return [z, p.decode(randn(1, 1, 4, 8, 8)), text["embeds"], prediction.eps, *prediction.features]

    try:
        got = outputs(loaded)
    except RuntimeError as err:
        if "not implemented for" in str(err):
            pytest.skip(f"this processor cannot: {err}")
        raise
    assert str(loaded.fingerprint).endswith({"fp32": " float32", "fp16": " float16", "bf16": " bfloat16"}[dtype])
    for a, b in zip(got, outputs(prior), strict=True):
        assert a.dtype == torch.float32
        assert float((a - b).norm()) <= tolerance * float(b.norm())


@pytest.mark.parametrize(
    "file",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
    ],
)
def test_identity_follows_the_files(tiny_folder: Path, tmp_path: Path, file: str) -> None:
    copy = tmp_path / tiny_folder.name
    shutil.copytree(tiny_folder, copy)
    assert fingerprint_of(str(copy)) == fingerprint_of(str(tiny_folder))  # wherever it lies
    data = bytearray((copy / file).read_bytes())
    data[-1] ^= 1
    (copy / file).write_bytes(data)
    assert fingerprint_of(str(copy)) != fingerprint_of(str(tiny_folder))


def test_identity_is_the_same_from_inside(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_folder)
    assert fingerprint_of(".") == fingerprint_of(str(tiny_folder))


def test_fingerprint_of_a_hub_name_is_the_name() -> None:
    assert fingerprint_of("someone/some-model") == "someone/some-model"


@pytest.mark.parametrize("prediction_type", ["sample", "flow_prediction"])
def test_other_prediction_types_are_refused(tmp_path: Path, prediction_type: str) -> None:
    pipeline = build_pipeline(tmp_path / "build")
    pipeline.scheduler.register_to_config(prediction_type=prediction_type)
    with pytest.raises(InputError, match=f"predicts '{prediction_type}': priors must predict epsilon or v_prediction"):
        UNetPrior(pipeline, CPU, "tiny")


def test_networks_without_self_attention_are_refused(tmp_path: Path) -> None:
    pipeline = build_pipeline(tmp_path / "build")
    pipeline.unet.up_blocks = torch.nn.ModuleList()
    with pytest.raises(InputError, match="prior tiny has no self-attention in its up blocks"):
        UNetPrior(pipeline, CPU, "tiny")
