"""Things from the network: found in a cache, or refused quickly and in one sentence."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import randn
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from cpds import hub
from cpds.errors import InputError
from cpds.evaluation.networks import Lpips
from cpds.hub import within
from cpds.priors.load import load_prior
from cpds.priors.unet import UNetPrior


class Hidden(RepositoryNotFoundError):
    """What the hub's library raises for a model that is not there, or not for you."""

    def __init__(self) -> None:
        Exception.__init__(self, "404 Client Error")


def hang() -> None:
    time.sleep(30)


def refuse(err: Exception) -> Callable[..., None]:
    def raises(*_args: Any, **_kwargs: Any) -> None:
        raise err

    return raises


def test_what_takes_too_long_is_left_behind() -> None:
    began = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        within(0.2, hang)
    assert time.perf_counter() - began < 20
    assert within(10.0, lambda: "answer") == "answer"
    with pytest.raises(TimeoutError, match="its own"):
        within(10.0, refuse(TimeoutError("its own")))


class Gated(GatedRepoError):
    """What it raises where a licence was not accepted, or no token is there to tell."""

    def __init__(self) -> None:
        Exception.__init__(self, "401 Client Error")


def test_a_gated_prior_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask about such a model; its files are for those who have accepted its licence."""
    monkeypatch.setattr("huggingface_hub.model_info", lambda *_, **__: SimpleNamespace(gated="auto"))
    monkeypatch.setattr("huggingface_hub.auth_check", refuse(Gated()))
    with pytest.raises(InputError) as refused:
        load_prior("me/gated", device="cpu")
    assert str(refused.value) == (
        "prior 'me/gated' is gated: accept its licence on its page at the Hugging Face hub, then log in (hf auth login)"
    )


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("me/typo", refuse(Hidden()), "the Hugging Face hub shows you no such model"),
        ("me/typo", refuse(ConnectionError("Name or service not known\nmore")), "reached (Name or service not known)"),
        ("me/typo", lambda *_, **__: hang(), "cannot be reached (no answer within 0.2 s)"),  # a firewall that drops
        ("no such name", None, "neither a local folder nor a name as the Hugging Face hub has them"),
        ("/no/such/folder", None, "neither a local folder nor a name"),
        (__file__, None, "is a file: give a .safetensors checkpoint, a local folder"),
    ],
)
def test_a_prior_that_is_nowhere(monkeypatch: pytest.MonkeyPatch, name: str, answer: Any, words: str) -> None:
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    if answer is not None:
        monkeypatch.setattr("huggingface_hub.model_info", answer)
    began = time.perf_counter()
    with pytest.raises(InputError) as refused:
        load_prior(name, device="cpu")
    assert time.perf_counter() - began < 20
    assert str(refused.value).startswith(f"prior {name!r} is ")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unreachable_hub_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """With the library's own requests, to a port where nobody listens: no retries, nothing printed."""
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    began = time.perf_counter()
    with pytest.raises(InputError, match=r"not in the Hugging Face cache, and the hub cannot be reached \(.*refused"):
        load_prior("me/typo", device="cpu")
    assert time.perf_counter() - began < 20
    assert capfd.readouterr().err == ""
    assert caplog.text == ""


@pytest.mark.parametrize("err", [Hidden(), ConnectionError("no network")])
def test_a_cached_prior_needs_no_hub(
    prior: UNetPrior, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, err: Exception
) -> None:
    commit = "0" * 40
    shutil.copytree(tiny_folder, tmp_path / "models--me--tiny/snapshots" / commit)
    (tmp_path / "models--me--tiny/refs").mkdir()
    (tmp_path / "models--me--tiny/refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.model_info", refuse(err))
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.model_info", refuse(AssertionError("asked again")))
    loaded = load_prior("me/tiny", device="cpu")
    assert loaded.fingerprint == "me/tiny float32"
    x_t, t = randn(0, 1, 4, 8, 8), torch.tensor([300])
    mine, other = (p.denoise(x_t, t, p.embed(["a cat"])).eps for p in (loaded, prior))
    assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refuse(OSError("Name or service not known")), "(Name or service not known)"),
        (lambda *_, **__: hang(), "(no answer within 0.2 s)"),
    ],
)
def test_lpips_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, words: str) -> None:
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    monkeypatch.setattr("cpds.evaluation.networks.PATIENCE", 0.2)
    for place in ("cpds.evaluation.networks.urlopen", "torch.hub.urlopen"):
        monkeypatch.setattr(place, answer)
    began = time.perf_counter()
    with pytest.raises(InputError) as refused:
        Lpips.load()
    assert time.perf_counter() - began < 20
    assert words in str(refused.value)
    assert "give torchvision's file alexnet-owt-7be5be79.pth" in str(refused.value)


def test_lpips_takes_what_was_downloaded_before(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    (tmp_path / "checkpoints").mkdir()
    torch.save(load_file(weights), tmp_path / "checkpoints/alexnet-owt-7be5be79.pth")
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    monkeypatch.setattr("cpds.evaluation.networks.urlopen", refuse(AssertionError("nothing is to be asked")))
    a, b = randn(0, 1, 3, 32, 32).sigmoid(), randn(1, 1, 3, 32, 32).sigmoid()
    assert torch.equal(Lpips.load()(a, b), Lpips.load(weights)(a, b))
