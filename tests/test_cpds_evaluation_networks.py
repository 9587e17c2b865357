"""Networks of the metrics: tiny ones with random weights, against naive computations and the libraries' own parts."""

from pathlib import Path

import pytest
import torch
from conftest import alexnet, randn
from safetensors.torch import save_file
from torch import Tensor
from transformers import ViTModel

from cpds.errors import InputError
from cpds.evaluation.metrics import structure_distance
from cpds.evaluation.networks import CLIP, IMAGENET, ClipScore, DinoStructure, Lpips, PriorStructure, standardised

CPU = torch.device("cpu")


def random_images(seed: int, n: int = 2, side: int = 64) -> Tensor:
    return randn(seed, n, 3, side, side).sigmoid()


def test_lpips_is_what_the_parts_of_torchmetrics_compute(weights: Path, tmp_path: Path) -> None:
    from torchmetrics.functional.image import lpips as theirs

    net, layers = alexnet(), [1, 4, 7, 9, 11]
    folder = Path(theirs.__file__).parent / "lpips_models"
    heads = torch.load(folder / "alex.pth", map_location="cpu", weights_only=True)
    a, b = random_images(0), random_images(1)
    want = torch.zeros(2)
    x, y = (theirs.ScalingLayer()(2 * p - 1) for p in (a, b))
    for i, layer in enumerate(net):
        x, y = layer(x), layer(y)
        if i in layers:
            k = layers.index(i)
            difference = (theirs._normalize_tensor(x) - theirs._normalize_tensor(y)) ** 2
            want += (difference * heads[f"lin{k}.model.1.weight"]).sum(1).mean((1, 2))
    assert torch.allclose(Lpips.load(weights)(a, b), want, rtol=1e-4)
    torch.save({f"features.{k}": v for k, v in alexnet().state_dict().items()}, tmp_path / "alexnet.pth")
    assert torch.allclose(Lpips.load(tmp_path / "alexnet.pth")(a, b), want, rtol=1e-4)


@pytest.mark.parametrize("content", [None, b"", b"<html>not weights"])  # missing, empty, an error page
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_lpips_says_which_file_it_needs(tmp_path: Path, content: bytes | None, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.(safetensors|pth).*alexnet-owt-7be5be79.pth"):
        Lpips.load(path)


def test_lpips_takes_images_of_any_size(weights: Path) -> None:
    a, b = randn(0, 1, 3, 16, 40).sigmoid(), randn(1, 1, 3, 16, 40).sigmoid()
    net = Lpips.load(weights)
    assert float(net(a, a)) == 0
    assert float(net(a, b)) > 0


def test_lpips_refuses_weights_of_another_network(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="AlexNet's weights for LPIPS cannot be loaded"):
        Lpips.load(tmp_path / "other.safetensors")


def test_structure_on_the_prior_is_zero_for_the_same_image_alone(prior) -> None:
    structure = PriorStructure(prior)
    a, b = random_images(0, 2, 32), random_images(1, 2, 32)
    assert torch.equal(structure(a, a), torch.zeros(2))
    both, alone = structure(a, b), torch.cat([structure(a[i : i + 1], b[i : i + 1]) for i in range(2)])
    assert (both > 0).all()
    assert torch.allclose(both, alone, rtol=1e-3)
    odd = randn(2, 1, 3, 37, 45).sigmoid()  # no multiple of the prior's
    assert float(structure(odd, odd)) == 0


def test_dino_structure_compares_the_last_layers_keys(vit: Path) -> None:
    a, b = random_images(0), random_images(1)
    net = ViTModel.from_pretrained(vit).eval()
    keys = []
    for x in (a, b):
        with torch.no_grad():
            before = net(pixel_values=standardised(x, *IMAGENET, 224), output_hidden_states=True).hidden_states[1]
            layer = net.layers[1]
            keys.append(layer.attention.k_proj(layer.layernorm_before(before)).transpose(1, 2)[..., None])
    assert keys[0].shape == (2, 16, 17, 1)  # 4x4 patches and the class token
    assert torch.allclose(DinoStructure(str(vit), CPU)(a, b), structure_distance(*keys), rtol=1e-4)


def test_clip_score_is_a_cosine(clip: Path) -> None:
    images, texts = random_images(0), ["a cat", "a big red dog"]
    score = ClipScore(str(clip), CPU)
    got = score(images, texts)
    for i, text in enumerate(texts):
        ids = score.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            pixels = standardised(images[i : i + 1], *CLIP, 32)
            seen = score.net.get_image_features(pixel_values=pixels)
            read = score.net.get_text_features(**ids)
        seen, read = (x if isinstance(x, Tensor) else x.pooler_output for x in (seen, read))
        assert float(got[i]) == pytest.approx(100 * float(torch.cosine_similarity(seen, read)), abs=1e-3)


@pytest.mark.parametrize(("make", "field"), [(ClipScore, "clip"), (DinoStructure, "dino")])
def test_models_that_cannot_be_had_are_named(tmp_path: Path, make: type, field: str) -> None:
    with pytest.raises(InputError, match=f"^{field} '.*nothing' is neither a local folder nor a name"):
        make(str(tmp_path / "nothing"), CPU)
