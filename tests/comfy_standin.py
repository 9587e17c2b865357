"""As much of ComfyUI's published interface as the nodes use, for tests where ComfyUI itself is not at hand.

Written from the signatures of its V3 schema (comfy_api.latest), of comfy.model_management, comfy.utils and
folder_paths: names, defaults and what is refused are theirs; what it does with them is the least that can be tested.
"""

import sys
from abc import ABC
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


class Input:
    """An input of any kind; `options` are its kind's own."""

    kind: str
    own: tuple[str, ...] = ()
    plain: tuple[str, ...] = ("display_name", "optional", "tooltip", "lazy")

    def __init__(self, id: str, **options: Any) -> None:
        unknown = options.keys() - {*self.plain, *self.own}
        if unknown:
            raise TypeError(f"{type(self).__name__} got an unexpected keyword argument {unknown}")
        self.id, self.options, self.optional = id, options, options.get("optional", False)


@dataclass
class Output:
    id: str
    display_name: str | None = None
    tooltip: str | None = None
    is_output_list: bool = False
    kind: str = ""


WIDGET = ("default", "socketless", "force_input")
NUMBER = (*WIDGET, "min", "max", "step", "display_mode")
OWN = {
    "STRING": (*WIDGET, "multiline", "placeholder", "dynamic_prompts"),
    "INT": (*NUMBER, "control_after_generate"),
    "FLOAT": (*NUMBER, "round"),
    "BOOLEAN": (*WIDGET, "label_on", "label_off"),
    "COMBO": ("options", "default", "control_after_generate", "upload", "image_folder", "remote", "socketless"),
}


def comfy_type(kind: str) -> Any:
    """A type with its Input and Output, as io.Image and the others are."""

    def output(id: str, **options: Any) -> Output:
        return Output(id, **options, kind=kind)

    return SimpleNamespace(
        Input=type("Input", (Input,), {"kind": kind, "own": OWN.get(kind, ())}), Output=output, io_type=kind
    )


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    description: str = ""

    def validate(self) -> None:
        names = [part.id for part in (*self.inputs, *self.outputs)]
        if len(set(names)) < len(names):
            raise ValueError(f"Ids must be unique, also between inputs and outputs, got {names}")


class ComfyNode:
    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        schema = cls.define_schema()  # pyright: ignore[reportAttributeAccessIssue]
        schema.validate()
        return schema

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        """What the server tells its page of a node."""
        schema = cls.GET_SCHEMA()
        parts: dict[str, dict[str, Any]] = {"required": {}}
        for each in schema.inputs:
            told = {k: v for k, v in each.options.items() if v is not None and k != "optional"}
            parts.setdefault("optional" if each.optional else "required", {})[each.id] = (each.kind, told)
        return {"name": schema.node_id, "input": parts, "output": [out.kind for out in schema.outputs]}


class NodeOutput:
    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui

    @property
    def result(self) -> tuple[Any, ...] | None:
        return self.args or None


class InterruptProcessingException(Exception):
    pass


def modules() -> dict[str, ModuleType]:
    """By the names that they are imported by."""
    api, management = ModuleType("comfy_api.latest"), ModuleType("comfy.model_management")
    utils, paths = ModuleType("comfy.utils"), ModuleType("folder_paths")
    folders: dict[str, list[str]] = {"checkpoints": [], "diffusers": []}
    state: dict[str, Any] = {"interrupted": False, "hook": None}

    class ProgressBar:
        def __init__(self, total: int, node_id: str | None = None) -> None:
            self.total, self.node_id, self.hook = total, node_id, state["hook"]

        def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
            if self.hook is not None:
                self.hook(value, total or self.total, preview, node_id=self.node_id)

    def throw_exception_if_processing_interrupted() -> None:
        if state["interrupted"]:
            state["interrupted"] = False
            raise InterruptProcessingException

    def get_filename_list(name: str) -> list[str]:
        found = {file.relative_to(root).as_posix() for root in folders[name] for file in Path(root).rglob("*.*")}
        return sorted(found)

    def get_full_path(name: str, filename: str) -> str | None:
        places = (Path(root, filename) for root in folders[name])
        return next((str(place) for place in places if place.is_file()), None)

    types = {name: comfy_type(name.upper()) for name in ("Image", "Mask", "String", "Int", "Float", "Boolean", "Combo")}
    schema = {"Schema": Schema, "ComfyNode": ComfyNode, "NodeOutput": NodeOutput, "Input": Input}
    api.__dict__.update(io=SimpleNamespace(**types, **schema, Custom=comfy_type))
    api.__dict__.update(ComfyExtension=type("ComfyExtension", (ABC,), {}))
    management.__dict__.update(
        InterruptProcessingException=InterruptProcessingException,
        throw_exception_if_processing_interrupted=throw_exception_if_processing_interrupted,
        interrupt_current_processing=lambda value=True: state.update(interrupted=value),
        get_torch_device=lambda: torch.device("cpu"),
        unload_all_models=lambda: None,
        soft_empty_cache=lambda force=False: None,
    )
    utils.__dict__.update(ProgressBar=ProgressBar, set_progress_bar_global_hook=lambda hook: state.update(hook=hook))
    paths.__dict__.update(
        get_filename_list=get_filename_list,
        get_full_path=get_full_path,
        get_folder_paths=lambda name: list(folders[name]),
        add_model_folder_path=lambda name, path, is_default=False: folders[name].append(str(path)),
    )
    made = {module.__name__: module for module in (api, management, utils, paths)}
    for name in list(made):
        package, _, inner = name.rpartition(".")
        if package:
            made.setdefault(package, ModuleType(package)).__dict__.update({inner: made[name], "__path__": []})
    return made


def install(patch: pytest.MonkeyPatch) -> None:
    """In place of ComfyUI's own, until the patch is undone."""
    for name, module in modules().items():
        patch.setitem(sys.modules, name, module)
