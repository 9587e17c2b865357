"""LoRA and textual inversion: networks get exactly W + weight * scale * B A, tokenizers and encoders the new words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randn
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny_priors import Family
from torch import Tensor, nn

from cpds.errors import InputError
from cpds.priors import adapters
from cpds.priors.load import load_prior
from cpds.priors.options import PriorOptions, located, split_colon, weight_of

Get = Callable[[str], Family]
RANK, ALPHA = 2, 3  # so that scale is not 1
TARGETS = {"network": ["to_q", "to_v", "to_out.0"], "text_encoder": ["q_proj", "fc1"]}


def write_lora(pipeline: Any, folder: Path, *, text: bool = False, seed: int = 0) -> Path:
    """A LoRA with random weights by peft, saved as diffusers saves it: its alpha is in the file's metadata."""
    network = "unet" if hasattr(pipeline, "unet") else "transformer"
    parts = [network, *(["text_encoder"] if text else [])]
    layers: dict[str, Any] = {}
    for part in parts:
        module = getattr(pipeline, part)
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS.get(part, TARGETS["network"]))
        module.add_adapter(config)
        for i, (name, x) in enumerate(sorted(module.named_parameters())):
            if "lora_" in name:
                x.data = 0.3 * randn(1000 * seed + i, *x.shape)
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(module)
        layers[f"{part}_lora_adapter_metadata"] = config.to_dict()
        adapters.remove_layers(module)
    type(pipeline).save_lora_weights(folder, **layers)
    return folder / "pytorch_lora_weights.safetensors"


def by_hand(network: nn.Module, part: str, file: Path, weight: float) -> None:
    """W += weight * (ALPHA / RANK) * B A for every pair of a file."""
    state = load_file(file)
    for key, a in state.items():
        if key.startswith(f"{part}.") and key.endswith("lora_A.weight"):
            layer: Any = network.get_submodule(key.removeprefix(f"{part}.").removesuffix(".lora_A.weight"))
            layer.weight.data += weight * ALPHA / RANK * (state[key.replace("lora_A", "lora_B")] @ a)


def loaded(family: Family, **options: Any) -> Any:
    return load_prior(family.folder, device="cpu", options=PriorOptions(**options))


def predicted(prior: Any) -> tuple[Tensor, int]:
    """A prediction, and how many features were tapped on the way."""
    x = randn(0, 1, prior.vae.config.latent_channels, 8, 8)
    if type(prior).__name__ == "Flux2Prior":
        x = randn(0, 1, 16, 4, 4)
    found = prior.denoise(x, torch.tensor([500]), prior.embed(["a cat"]), tap=1)
    return found.eps, len(found.features)


@pytest.fixture
def lora(families: Get, tmp_path: Path) -> Callable[..., Path]:
    return lambda name, **kwargs: write_lora(families(name).pipeline, tmp_path / f"{name}-{len(kwargs)}", **kwargs)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux-dev", "flux2", "z-image"])
def test_weights_become_what_is_computed_by_hand(families: Get, lora: Callable[..., Path], name: str) -> None:
    family, file = families(name), lora(name)
    plain, changed = loaded(family), loaded(family, lora=(f"{file}:0.7",))
    before, taps = predicted(plain)
    by_hand(plain.net, plain.network, file, 0.7)
    expected, _ = predicted(plain)
    actual, still = predicted(changed)
    torch.testing.assert_close(actual, expected)
    assert (actual - before).abs().max() > 1e-4
    assert still == taps
    assert [type(x) for x in changed.net.modules()] == [type(x) for x in plain.net.modules()]  # it is fused
    assert changed.parameters == plain.parameters


def test_several_add_up(families: Get, lora: Callable[..., Path]) -> None:
    family, one, other = families("sd"), lora("sd"), lora("sd", seed=1)
    plain = loaded(family)
    by_hand(plain.net, "unet", one, 1.0)
    by_hand(plain.net, "unet", other, -0.5)
    both = loaded(family, lora=(str(one.parent), f"{other}:-0.5"))
    torch.testing.assert_close(predicted(both)[0], predicted(plain)[0])


def test_weight_0_changes_nothing(families: Get, lora: Callable[..., Path]) -> None:
    family, file = families("sd"), lora("sd", text=True)
    same = loaded(family, lora=(f"{file}:0",))
    assert torch.equal(predicted(same)[0], predicted(family.prior)[0])


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_text_encoders_get_their_part(families: Get, lora: Callable[..., Path], name: str) -> None:
    """Those of SDXL are opened when there is a prompt, and the network, which has its part already, stays."""
    family, file = families(name), lora(name, text=True)
    changed = loaded(family, lora=(f"{file}:0.5",))
    kept = loaded(family, keep_text_encoders=True)
    by_hand(kept.pipeline.text_encoder, "text_encoder", file, 0.5)
    by_hand(kept.net, "unet", file, 0.5)
    for key, expected in kept.embed(["a dog"]).tensors.items():
        torch.testing.assert_close(changed.embed(["a dog"])[key], expected)
        if key == "embeds":
            assert not torch.allclose(family.prior.embed(["a dog"])[key], expected)
    torch.testing.assert_close(predicted(changed)[0], predicted(kept)[0])


def test_of_a_quantized_network_it_stays_beside(
    families: Get, lora: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, file = families("sd"), lora("sd", text=True)
    fused = loaded(family, lora=(f"{file}:0.7",))
    monkeypatch.setattr(adapters, "is_quantized", lambda options: True)
    beside = loaded(family, lora=(f"{file}:0.7",))
    assert any("lora_A" in key for key, _ in beside.net.named_parameters())
    assert not any(x.requires_grad for x in beside.net.parameters())
    assert not any("lora" in key for key, _ in beside.text_encoder.named_parameters())
    torch.testing.assert_close(predicted(beside)[0], predicted(fused)[0])
    assert beside.feature_width == fused.feature_width


def test_a_run_knows_the_files(families: Get, lora: Callable[..., Path], tmp_path: Path) -> None:
    family, file = families("sd"), lora("sd")
    prints = [loaded(family, lora=(text,)).fingerprint for text in (str(file), f"{file}:0.5", str(file.parent))]
    assert prints[0] == prints[2]
    assert len({family.prior.fingerprint, *prints}) == 3
    save_file({k: 2 * v for k, v in load_file(file).items()}, file)
    assert loaded(family, lora=(str(file),)).fingerprint not in prints


def test_a_lora_for_few_steps_is_known_by_name(families: Get, lora: Callable[..., Path], tmp_path: Path) -> None:
    """By that of its file, or of its folder."""
    family, file = families("sd"), lora("sd")
    for name in ("hyper/detail.safetensors", "detail-turbo/x.safetensors", "x/sdxl_lightning_4step.safetensors"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(file)
    for text, kind in {
        "hyper/detail.safetensors:0.5": "classifier-free",
        "detail-turbo": "none",
        "x/sdxl_lightning_4step.safetensors:0.5": "none",
        "x": "none",
    }.items():
        assert loaded(family, lora=(str(tmp_path / text),)).guidance == kind


def test_names_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("with:colon").write_text("")
    assert split_colon("with:colon") == ("with:colon", "")
    assert split_colon("a/b:0.5") == ("a/b", "0.5")
    assert weight_of("a/b:-2") == -2.0
    assert located("with:colon:2") == f"{tmp_path}/with:colon:2"
    assert located("owner/model:2") == "owner/model:2"


def learned(family: Family, vectors: int, file: Path) -> Tensor:
    found = randn(3, vectors, 16)
    save_file({"<thing>": found}, file)
    return found


@pytest.mark.parametrize("vectors", [1, 3])
def test_learned_words_are_read(families: Get, tmp_path: Path, vectors: int) -> None:
    """A word of several vectors gives the encoding that its vectors give as words of their own."""
    family, file = families("sd"), tmp_path / "thing.safetensors"
    vectors_of = learned(family, vectors, file)
    prior = loaded(family, textual_inversion=(str(file),))
    single = loaded(family, keep_text_encoders=True)
    words = [f"w{'xyz'[i]}q" for i in range(vectors)]
    for i, word in enumerate(words):
        single.pipeline.load_textual_inversion({f"<{word}>": vectors_of[i]})
    spelled = " ".join(f"<{word}>" for word in words)
    torch.testing.assert_close(prior.embed(["a <thing>"])["embeds"], single.embed([f"a {spelled}"])["embeds"])
    assert not torch.equal(prior.embed(["a <thing>"])["embeds"], family.prior.embed(["a <thing>"])["embeds"])
    assert torch.equal(prior.embed(["a cat"])["embeds"], family.prior.embed(["a cat"])["embeds"])


def test_learned_words_of_two_encoders(families: Get, tmp_path: Path) -> None:
    """Of encoders that are opened later; the word is the file's name, or what is said."""
    family, file = families("sdxl"), tmp_path / "thing.safetensors"
    save_file({"clip_l": randn(1, 2, 16), "clip_g": randn(2, 2, 16)}, file)
    named, renamed = loaded(family, textual_inversion=(str(file),)), loaded(family, textual_inversion=(f"{file}:<it>",))
    for key, expected in named.embed(["a thing"]).tensors.items():
        torch.testing.assert_close(renamed.embed(["a <it>"])[key], expected)
        assert not torch.allclose(family.prior.embed(["a thing"])[key], expected)
    assert len(renamed.pipeline.tokenizer("<it>").input_ids) == 3  # a beginning, the word, an end
    assert named.fingerprint != renamed.fingerprint


def test_what_cannot_be_loaded(
    families: Get, lora: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    sd, sdxl, flux = lora("sd"), lora("sdxl"), lora("flux-dev")
    empty, two, pickled = tmp_path / "none.safetensors", tmp_path / "two", tmp_path / "old.bin"
    save_file({"weight": randn(0, 2)}, empty)
    two.mkdir()
    for name in ("a", "b"):
        save_file({"w": randn(0, 2)}, two / f"{name}.safetensors")
    pickled.write_bytes(b"")
    begun, full = tmp_path / "begun", tmp_path / "full"  # runs of cpds dreambooth
    for run in (begun, full):
        run.mkdir()
        (run / "dreambooth.json").touch()
        save_file({"param.lora": randn(0, 2)}, run / "checkpoint.safetensors")
    (full / "prior").mkdir()
    (full / "prior/model_index.json").touch()
    wide = tmp_path / "wide.safetensors"
    save_file({"<w>": randn(0, 1, 99)}, wide)
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("sd", {"lora": (str(flux),)}, "does not fit a StableDiffusionPipeline: it has nothing for its unet"),
        ("sd", {"lora": (str(sdxl),)}, r"does not fit a StableDiffusionPipeline \(its tensors have other shapes\)"),
        ("sdxl", {"lora": (str(sd),)}, "does not fit a StableDiffusionXLPipeline"),
        ("sd", {"lora": (str(empty),)}, "none.safetensors holds no LoRA"),
        ("sd", {"lora": (f"{sd}:much",)}, "has the weight 'much', which is no number"),
        ("sd", {"lora": (f"{sd}:nan",)}, "has the weight 'nan', which is no number"),
        ("sd", {"lora": ("",)}, "one of lora is empty"),
        ("sd", {"lora": ("nothing.safetensors",)}, "nothing.safetensors does not exist"),
        ("sd", {"lora": ("no/where",)}, "lora no/where is no local folder and not in the Hugging Face cache"),
        ("sd", {"lora": (str(two),)}, "holds no pytorch_lora_weights.safetensors but a.safetensors, b.safetensors"),
        ("sd", {"lora": (str(begun),)}, "is a run of cpds dreambooth that has no .*: resume it first"),
        ("sd", {"lora": (f"{full}:0.5",)}, f"it holds a whole prior: take {full}/prior as prior"),
        ("sd", {"lora": (str(pickled),)}, "is a pickle"),
        ("pixart", {"lora": (str(sd),)}, "diffusers loads none for a PixArtSigmaPipeline"),
        ("sd3", {"textual_inversion": (str(wide),)}, "a StableDiffusion3Pipeline takes none"),
        ("sd", {"textual_inversion": (str(wide),)}, "cannot be used .*incorrect shape"),
        ("sd", {"textual_inversion": (f"{wide}:a",)}, "cannot be used .*already in tokenizer vocabulary"),
        ("sd", {"textual_inversion": (str(sd),)}, "cannot be used .*tensors instead of one"),
    ]
    for name, options, message in cases:
        with pytest.raises(InputError, match=message) as refused:
            loaded(families(name), **options)
        assert "\n" not in str(refused.value), json.dumps(options)
    with pytest.raises(InputError, match=f"has no model_index.json: give {full}/prior"):
        load_prior(full, device="cpu")
