"""The hash encoding in C beside nerfstudio's in torch: codes equal to the last bit, gradients to rounding."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("nerfstudio", exc_type=(ImportError, OSError))
pytest.importorskip("open3d", exc_type=(ImportError, OSError))  # wants libraries of the system
from nerfstudio.field_components.encodings import HashEncoding
from scenes import gradients

from nerf_plugin.hash_encoding import encode_in_c, library
from nerf_plugin.rays import render_rays
from nerf_plugin.rendering import seeded

compiled = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture
def no_library() -> Iterator[None]:
    """Compiled anew in the test and after it."""
    library.cache_clear()
    yield
    library.cache_clear()


def encoding(features: int = 2, levels: int = 5) -> HashEncoding:
    """With an even table, and one whose finest level has more cells than rows."""
    sizes: Any = {"num_levels": levels, "features_per_level": features, "log2_hashmap_size": 9, "max_res": 128}
    return HashEncoding(**sizes, hash_init_scale=1.0, implementation="torch")


def model_of(found: HashEncoding, **changes: Any) -> Any:
    """What `encode_in_c` asks of a nerfacto."""
    config = SimpleNamespace(predict_normals=False)
    model = SimpleNamespace(device=torch.device("cpu"), config=config, modules=lambda: [found])
    for name, value in changes.items():
        setattr(config if hasattr(config, name) else model, name, value)
    return model


def points(shape: tuple[int, ...]) -> Tensor:
    """Random ones in the unit cube, its corners and points on the grid's planes among them."""
    found = torch.rand(*shape, 3, generator=torch.Generator().manual_seed(0))
    flat = found.view(-1, 3)
    flat[0], flat[1], flat[2] = 0, 1, 0.25
    return found


@compiled
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("features", [2, 3])
def test_codes_are_those_of_torch_and_gradients_too(features: int, threads: int) -> None:
    ours, where, before = encoding(features), points((40, 7)), torch.get_num_threads()
    wanted = ours.pytorch_fwd(where)
    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((wanted * weights).sum(), ours.hash_table)
    encode_in_c(model_of(ours))
    torch.set_num_threads(threads)
    try:
        found = ours(where)
        found.backward(weights)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, wanted)
    assert ours.hash_table.grad is not None
    assert torch.allclose(ours.hash_table.grad, gradient, rtol=1e-5, atol=1e-5)
    assert gradient.abs().max() > 1


@compiled
def test_a_view_and_its_gradients_are_those_of_torch(edited: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, found = edited["cpds"].pipeline, []
    pipeline.train()
    encodings = [x for x in pipeline.model.modules() if isinstance(x, HashEncoding)]
    assert len(encodings) == 3
    assert all("pytorch_fwd" in vars(x) for x in encodings)
    for plain in (False, True):
        for x in encodings if plain else ():
            monkeypatch.delitem(vars(x), "pytorch_fwd")
        with seeded(3, torch.device("cpu")):
            image, losses = render_rays(pipeline.model, pipeline.views.cameras[0], 100)
        found.append((image, gradients(pipeline.model, image, losses)))
    (a, ga), (b, gb) = found
    assert torch.equal(a, b)
    assert len(ga) == len(gb) > 4
    assert all(torch.allclose(x, y, rtol=1e-4, atol=1e-7) for x, y in zip(ga, gb, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"predict_normals": True},  # which are a gradient in the points
        {"device": torch.device("meta")},  # nothing to point to
    ],
)
def test_encodings_that_c_cannot_do_stay_in_torch(changes: dict[str, Any]) -> None:
    ours = encoding()
    encode_in_c(model_of(ours, **changes))
    assert "pytorch_fwd" not in vars(ours)


@pytest.mark.parametrize(
    "compiler",
    [
        lambda folder: str(folder / "absent"),
        lambda _: "false",  # it is there and fails
    ],
)
def test_without_a_compiler_torch_goes_on_and_says_so(
    compiler: Callable[[Path], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_library: None,
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path))
    ours = encoding()
    encode_in_c(model_of(ours))
    assert "pytorch_fwd" not in vars(ours)
    assert "install gcc" in capsys.readouterr().err
