"""The ComfyUI nodes, loaded and called as ComfyUI does: `cpds.edit` of the same is their oracle.

With COMFYUI_PATH, the folder of a ComfyUI whose requirements are installed here, ComfyUI's own modules call them; else
a stand-in of its interface.
"""

import asyncio
import importlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy_standin
import pytest
import torch
from conftest import randn
from torch import Tensor

from cpds import PRESETS, InputError, Prior, edit, load_prior
from cpds.errors import EditDiverged
from cpds.priors.unet import UNetPrior
from representations.latent import LatentImage, LatentImageConfig
from svg.config import SvgConfig
from svg.document import Document
from svg.image import SvgImage

FOLDER = Path(__file__).parents[1] / "integrations" / "comfyui"
WORKFLOWS = sorted((FOLDER / "example_workflows").glob("*.json"))
COMFYUI = os.environ.get("COMFYUI_PATH")
CORE = {  # of ComfyUI itself, in our workflows: how many widgets, what goes in, what comes out
    "LoadImage": (2, {}, ["IMAGE", "MASK"]),
    "SaveImage": (1, {"images": "IMAGE"}, []),
    "PreviewImage": (0, {"images": "IMAGE"}, []),
    "PreviewAny": (0, {"source": "*"}, []),
}
WIDGETS = ("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO")
DRAWING = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 24"><rect id="back" width="32" height="24" fill="#9cf"/>\
<path id="face" d="M4 4L28 3C30 20 12 30 4 4Z" fill="#f80"/></svg>'
)
EDIT = {"prompt": "a cat", "target_prompt": "a dog", "preset": "pds", "guidance_scale": 0.0, "steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def comfy() -> Iterator[SimpleNamespace]:
    """ComfyUI's modules that tests need, and our nodes by their ids."""
    with pytest.MonkeyPatch.context() as patch:
        if COMFYUI:
            patch.syspath_prepend(COMFYUI)
            importlib.import_module("comfy.cli_args").args.cpu = True  # before it looks for a GPU
        else:
            comfy_standin.install(patch)
        named = {"management": "comfy.model_management", "paths": "folder_paths", "utils": "comfy.utils"}
        found = SimpleNamespace(**{name: importlib.import_module(module) for name, module in named.items()})
        spec = importlib.util.spec_from_file_location("custom_nodes_cpds", FOLDER / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, package)
        spec.loader.exec_module(package)
        nodes = asyncio.run(listed(package))
        found.nodes = {node.GET_SCHEMA().node_id: node for node in nodes}
        yield found


async def listed(package: Any) -> list[Any]:
    extension = await package.comfy_entrypoint()
    return await extension.get_node_list()


@pytest.fixture
def progress(comfy: SimpleNamespace) -> Iterator[list[Any]]:
    """What nodes tell of their progress: value, total and preview."""
    told: list[Any] = []
    comfy.utils.set_progress_bar_global_hook(lambda *args, node_id=None: told.append(args))
    yield told
    comfy.utils.set_progress_bar_global_hook(None)


def call(comfy: SimpleNamespace, node_id: str, **inputs: Any) -> Any:
    """A node's outputs, in inference mode as ComfyUI runs it, with the defaults of what is not given."""
    node = comfy.nodes[node_id]
    told = node.GET_NODE_INFO_V1()["input"]["required"]
    given = {key: value_of(options) for key, (kind, options) in told.items() if kind in WIDGETS} | inputs
    with torch.inference_mode():
        return node.execute(**given).result


def value_of(options: dict[str, Any]) -> Any:
    return options["default"] if "default" in options else options.get("options", [""])[0]


def pictures(count: int = 1, height: int = 24, width: int = 40) -> Tensor:
    """As ComfyUI has them, (b, h, w, 3) in [0, 1]."""
    with torch.inference_mode():
        return randn(0, count, height, width, 3).mul(0.2).add(0.5).clamp(0, 1)


def by_cpds(prior: Prior, images: Tensor, **kwargs: Any) -> Tensor:
    """Of one image."""
    config = replace(PRESETS["pds"], num_inference_steps=2, seed=3)
    latent = LatentImage(images.clone().permute(0, 3, 1, 2).contiguous(), prior, **kwargs)
    edit(latent, prior, "a cat", "a dog", config)
    return latent.preview().permute(0, 2, 3, 1)


def test_images_become_what_cpds_makes_of_them(comfy: SimpleNamespace, prior: UNetPrior, progress: list[Any]) -> None:
    (edited,) = call(comfy, "CPDSEditImage", prior=prior, image=pictures(2), **EDIT)
    assert edited.shape == (2, 24, 40, 3)
    alone = torch.cat([by_cpds(prior, image) for image in pictures(2).split(1)])
    torch.testing.assert_close(edited, alone, rtol=0, atol=1e-4)
    alpha = torch.cat([pictures(2), torch.ones(2, 24, 40, 1)], -1)
    (again,) = call(comfy, "CPDSEditImage", prior=prior, image=alpha, **EDIT)
    assert torch.equal(again, edited)
    assert [args[:2] for args in progress] == [(1, 2), (2, 2)] * 2
    assert progress[0][2][1].size == (40, 24)


def test_masks_hold_and_fields_count(comfy: SimpleNamespace, prior: UNetPrior) -> None:
    mask = torch.zeros(1, 24, 40)
    mask[..., :20] = 1
    more = {"image": pictures(), "mask": mask, "resolution": 16}
    (edited,) = call(comfy, "CPDSEditImage", prior=prior, **EDIT, **more)
    assert torch.equal(edited, by_cpds(prior, pictures(), mask=mask[None], config=LatentImageConfig(16)))
    assert torch.equal(edited[:, :, 20:], pictures()[:, :, 20:])
    for field, value in {
        "guidance_scale": 1.0,
        "steps": 1,
        "seed": 4,
        "preset": "dds",
        "target_prompt": "a cup",
    }.items():
        (other,) = call(comfy, "CPDSEditImage", prior=prior, **EDIT | {field: value}, **more)
        assert not torch.equal(other, edited), field


def test_an_edit_that_diverges_gives_no_black_image(
    comfy: SimpleNamespace, prior: UNetPrior, progress: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LatentImage, "preview", lambda self: self.image * float("nan"))
    with pytest.raises(EditDiverged, match="step 1 left NaN or infinite values in what is shown"):
        call(comfy, "CPDSEditImage", prior=prior, image=pictures(), **EDIT)


def test_an_svg_keeps_its_elements(comfy: SimpleNamespace, prior: UNetPrior, progress: list[Any]) -> None:
    own = EDIT | {"preset": "pds-svg", "only": "#face", "style": "iconography"}
    edited, preview = call(comfy, "CPDSEditSVG", prior=prior, svg=DRAWING, **own)
    config = SvgConfig(style="iconography", only=("#face",))
    page = SvgImage(Document.parse(DRAWING.encode()), prior, config)
    settings = replace(PRESETS["pds-svg"], num_inference_steps=2, seed=3)
    edit(page, prior, "a cat" + config.suffix, "a dog" + config.suffix, settings)
    assert edited.encode() == page.svg()
    assert edited != DRAWING
    assert 'id="back" width="32" height="24" fill="#9cf"' in edited
    assert torch.equal(preview, page.preview().permute(0, 2, 3, 1))
    assert preview.shape == (1, 384, 512, 3)
    steps = settings.redraw_steps + 2  # of the image that is edited first, then of the drawing
    assert settings.redraw_steps
    assert [args[:2] for args in progress] == [(i + 1, steps) for i in range(steps)]


def test_a_prior_of_ours_or_of_comfyuis_folders(comfy: SimpleNamespace, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "diffusers/here/tiny")
    (tmp_path / "checkpoints/sub").mkdir(parents=True)
    for name in ("sub/model.safetensors", "pickle.ckpt"):
        (tmp_path / "checkpoints" / name).write_bytes(b"no model")
    for kind in ("diffusers", "checkpoints"):
        comfy.paths.add_model_folder_path(kind, str(tmp_path / kind))
    menu = comfy.nodes["CPDSLoadPrior"].GET_NODE_INFO_V1()["input"]["required"]["prior"][1]["options"]
    assert menu[0] == "embedded"
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in menu
    assert {"here/tiny", "sub/model.safetensors"} <= set(menu)
    assert "pickle.ckpt" not in menu
    wanted = by_cpds(load_prior(tiny_folder, device="cpu"), pictures())
    for given in ({"prior": "here/tiny"}, {"prior": "embedded", "name": f" {tiny_folder} "}):
        (prior,) = call(comfy, "CPDSLoadPrior", **given)
        assert prior.device == torch.device("cpu")
        (edited,) = call(comfy, "CPDSEditImage", prior=prior, image=pictures(), **EDIT)
        assert torch.equal(edited, wanted)
    with pytest.raises(InputError, match=r"model\.safetensors' is not a \.safetensors checkpoint"):
        call(comfy, "CPDSLoadPrior", prior="sub/model.safetensors")


def test_an_interrupted_edit_ends_at_once(comfy: SimpleNamespace, prior: UNetPrior, progress: list[Any]) -> None:
    def told(*args: Any, node_id: str | None = None) -> None:
        progress.append(args)
        comfy.management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(told)
    with pytest.raises(comfy.management.InterruptProcessingException):
        call(comfy, "CPDSEditImage", prior=prior, image=pictures(), **EDIT | {"steps": 1000})
    assert len(progress) == 1


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"mask": torch.zeros(1, 64, 64)}, "the mask is empty: paint what may change, or leave it unconnected"),
        ({"mask": torch.ones(1, 20, 20)}, "the mask is 1 of 20x20 px but the image is 1 of 40x24 px"),
        ({"mask": torch.ones(2, 24, 40)}, "the mask is 2 of 40x24 px but the image is 1 of 40x24 px"),
        ({"resolution": 5}, "resolution must be >= 16 px, got 5"),
    ],
)
def test_what_cannot_be_used_is_said(
    inputs: dict[str, Any], sentence: str, comfy: SimpleNamespace, prior: UNetPrior
) -> None:
    with pytest.raises(InputError, match=sentence.replace("(", r"\(")):
        call(comfy, "CPDSEditImage", prior=prior, image=pictures(), **EDIT | inputs)


def test_an_svg_that_is_none_is_refused(comfy: SimpleNamespace, prior: UNetPrior) -> None:
    for svg, only in (("no drawing", ""), (DRAWING, "#nobody")):
        with pytest.raises(InputError, match=r"the SVG|nothing of #nobody"):
            call(comfy, "CPDSEditSVG", prior=prior, svg=svg, only=only, **EDIT | {"preset": "pds-svg"})


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_fit_the_nodes(file: Path, comfy: SimpleNamespace) -> None:
    """Each widget has a value of its kind, and each link goes from an output to an input of one kind."""
    workflow = json.loads(file.read_text())
    nodes = {node["id"]: node for node in workflow["nodes"]}
    outputs: dict[int, list[str]] = {}
    for number, node in nodes.items():
        if node["type"] in CORE:
            widgets, sockets, outputs[number] = CORE[node["type"]]
            assert len(node["widgets_values"]) == widgets
        else:
            info = comfy.nodes[node["type"]].GET_NODE_INFO_V1()
            inputs = {name: told for part in info["input"].values() for name, told in part.items()}
            sockets = {name: kind for name, (kind, _) in inputs.items() if kind not in WIDGETS}
            outputs[number] = list(info["output"])
            values = iter(node["widgets_values"])
            for name, (kind, options) in inputs.items():
                if kind in WIDGETS:
                    fits(name, kind, options, next(values))
                    if options.get("control_after_generate"):
                        assert next(values) in ("fixed", "increment", "decrement", "randomize")
            assert not list(values)
        assert {slot["name"]: slot["type"] for slot in node["inputs"]} == sockets
        assert [slot["type"] for slot in node["outputs"]] == outputs[number]
    for link, start, slot, end, into, kind in workflow["links"]:
        assert outputs[start][slot] == kind
        assert link in nodes[start]["outputs"][slot]["links"]
        assert nodes[end]["inputs"][into]["link"] == link
        assert nodes[end]["inputs"][into]["type"] in (kind, "*")


def fits(name: str, kind: str, options: dict[str, Any], value: Any) -> None:
    types = {"STRING": str, "INT": int, "FLOAT": float, "BOOLEAN": bool, "COMBO": str}
    assert type(value) is types[kind], name
    if kind == "COMBO":
        assert value in options["options"], name
    if kind in ("INT", "FLOAT"):
        assert options["min"] <= value <= options["max"], name
