"""A GPU's view of code on a machine without one: tensors labelled cuda:0 that compute on the CPU, and what they met.

    with labelled_device() as record:
        x = torch.zeros(3, device=DEVICE)  # or anything.to("cuda")
        x + torch.ones(3)
    assert record.count("mixed devices") == 1
    print(record)  # which lines of ours did what, how often

The label lies on a tensor's storage: views, parameters, `.data` and what autograd saves share it. Two modes keep it up.
One sees what Python asks (`x.device`, `x.to`, `x.numpy`, a factory's device) and answers for the label. The other sees
every operation, those of backward too, labels what comes of labelled tensors, and records.

As on a GPU, a CPU tensor without dimensions may be combined with tensors there, and one that indexes them is copied.
Tensors that autograd makes for itself belong where they are first used. What it cannot know: the order of streams,
a GPU's memory and its rounding. Labels mean nothing outside of the context.
"""

import linecache
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, get_args
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("cuda", 0)
ROOT = f"{Path(__file__).parents[1]}{os.sep}"

Kind = Literal[
    "mixed devices",  # an error on a GPU
    "CPU generator",  # for random numbers there: an error, too
    "synchronization",  # the host waits until the GPU has done all that was asked of it
    "copy",  # host to device; from pageable memory, unless it is non-blocking, the host waits as well
    "queued copy",  # non-blocking
]

Ceiling = Mapping[Kind, Mapping[str, int]]  # how often each kind may happen beneath each path

aten = torch.ops.aten
WAITING = {  # their results' values or shapes are read on the host
    aten._local_scalar_dense,  # item, int, float, bool
    *(aten.nonzero, aten.masked_select, aten.equal, aten.allclose, aten.bincount, aten.repeat_interleave),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten._linalg_check_errors),
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index_put}
FILLING = {aten.masked_fill, aten.masked_fill_, aten.index_fill, aten.index_fill_}  # with args[-1]
JOINING = {aten.cat, aten.stack}  # they take no CPU tensor at all
ATTRIBUTES: dict[Any, object] = {Tensor.device: DEVICE, Tensor.is_cuda: True, Tensor.is_cpu: False}
FROM_DATA = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)


class Record:
    """What happened, by kind and by the line of ours that caused it."""

    def __init__(self) -> None:
        self.events: Counter[tuple[Kind, str]] = Counter()

    def add(self, kind: Kind, operation: str) -> None:
        self.events[kind, f"{_line_of_ours()}  [{operation}]"] += 1

    def count(self, kind: Kind) -> int:
        return sum(n for (k, _), n in self.events.items() if k == kind)

    def counts(self) -> dict[Kind, int]:
        """Of every kind that there was."""
        return {kind: n for kind in get_args(Kind) if (n := self.count(kind))}

    def over(self, ceiling: Ceiling) -> str:
        """Where more happened than `ceiling` allows of each kind beneath each path, line by line; empty: nowhere."""
        found = ""
        for kind in get_args(Kind):
            allowed = ceiling.get(kind, {})
            places: dict[str, Counter[str]] = {}
            for (_, where), n in ((event, n) for event, n in self.events.items() if event[0] == kind):
                place = next((path for path in allowed if where.startswith(path)), where)
                places.setdefault(place, Counter())[where] += n
            for place, lines in places.items():
                if lines.total() > (most := allowed.get(place, 0)):
                    found += f"{lines.total()} x {kind} instead of {most}:\n"
                    found += "".join(f"{n:4d} x {where}\n" for where, n in lines.items())
        return found

    def faults(self) -> list[str]:
        """The lines that would fail on a GPU."""
        return [f"{kind}: {where}" for kind, where in sorted(self.events) if kind in get_args(Kind)[:2]]

    def clear(self) -> None:
        self.events.clear()

    def __str__(self) -> str:
        return (
            "\n".join(f"{n:4d} x {kind:16s} {where}" for (kind, where), n in sorted(self.events.items())) or "nothing"
        )


@contextmanager
def labelled_device() -> Iterator[Record]:
    """In this context cuda:0 is there, in Python's eyes; what it would have to do for that is recorded."""
    record = Record()
    calls = _Calls(record)
    run_backward = torch.autograd._engine_run_backward  # pyright: ignore[reportAttributeAccessIssue]

    def watched(*args: Any, **kwargs: Any) -> Any:
        with calls:  # torch leaves a mode before `backward`, but in it run our own functions' backwards, and hooks
            return run_backward(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.autograd, "_engine_run_backward", watched))
        stack.enter_context(_Operations(record))
        stack.enter_context(calls)
        yield record


# ---- labels: "device"; "any" for what autograd makes for itself; none for the CPU


def _label(x: Tensor) -> str | None:
    try:
        return getattr(x.untyped_storage(), "label", None)
    except (NotImplementedError, RuntimeError):  # without storage, as inside of vmap
        return None


def _put(label: str | None, tensors: Iterable[Tensor]) -> None:
    for x in tensors:
        if x.device.type != "meta":
            x.untyped_storage().label = label  # pyright: ignore[reportAttributeAccessIssue]


def _on(x: object) -> bool:
    return isinstance(x, Tensor) and _label(x) == "device"


def _off(x: object) -> bool:
    return isinstance(x, Tensor) and _label(x) is None and x.device.type != "meta"


def _tensors(value: object) -> list[Tensor]:
    """All within nested lists, tuples and dicts."""
    if isinstance(value, list | tuple):
        return [x for part in value for x in ([part] if type(part) is Tensor else _tensors(part))]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return [value] if isinstance(value, Tensor) else []


def _line_of_ours() -> str:
    """The innermost line under way of this repository."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(ROOT) and file != __file__ and "site-packages" not in file:
            line = linecache.getline(file, frame.f_lineno).strip()
            return f"{file.removeprefix(ROOT)}:{frame.f_lineno}  {line}"
        frame = frame.f_back
    return "elsewhere"


class _Move(torch.autograd.Function):
    """A copy on the other device; its gradient goes the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, to_device: bool, note: Callable[[bool], None]) -> Tensor:
        ctx.to_device, ctx.note = to_device, note
        note(to_device)
        moved = x.detach().clone()
        _put("device" if to_device else None, [moved])
        return moved

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        ctx.note(not ctx.to_device)
        moved = gradients[0].clone()
        _put(None if ctx.to_device else "device", [moved])
        return moved, None, None


class _Calls(TorchFunctionMode):
    """What Python asks of tensors and factories."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict | None = None) -> Any:
        kwargs, x = dict(kwargs or {}), args[0] if args else None
        if func.__name__ == "__get__":  # an attribute
            return ATTRIBUTES[func.__self__] if func.__self__ in ATTRIBUTES and _on(x) else func(*args)
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self._to(func.__name__, *args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and _on(x):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if func is Tensor.tolist and _on(x):
            self.record.add("synchronization", "tolist")
        wanted, generator = kwargs.get("device"), kwargs.get("generator")
        to_device = wanted is not None and torch.device(wanted).type == "cuda"
        if generator is not None and (to_device or (wanted is None and any(map(_on, _tensors(args))))):
            self.record.add("CPU generator", func.__name__)
        if to_device:
            del kwargs["device"]
        result = func(*args, **kwargs)
        if func in FROM_DATA:
            there = to_device or (wanted is None and _on(x))
            return self._moved(result, there, func.__name__) if there != _on(result) else result
        made = [y for y in _tensors(result) if wanted is not None or _label(y) == "any"]
        if made and (wanted is not None or not _tensors((args, kwargs))):  # a factory
            _put("device" if to_device else None, made)
        return result

    def _to(self, name: str, x: Tensor, *args: Any, non_blocking: bool = False, **kwargs: Any) -> Tensor:
        """Tensor.to, and cpu and cuda, which are shorter forms of it."""
        device, rest = {"cpu": "cpu", "cuda": DEVICE}.get(name, kwargs.pop("device", None)), []
        for part in (*args, *([kwargs.pop("other")] if "other" in kwargs else [])):
            if isinstance(part, Tensor):
                device, part = DEVICE if _on(part) else part.device, part.dtype
            if isinstance(part, bool):  # whether to queue it; and whether to copy in any case, which changes no device
                non_blocking = non_blocking or part
            elif isinstance(part, str | torch.device | int):
                device = part
            elif part is not None:
                rest.append(part)
        y = x.to(*rest, **kwargs) if rest or kwargs else x
        kind = None if device is None else torch.device(device).type
        if kind not in (None, "cpu", "cuda"):
            return y.to(device)
        there = kind == "cuda"
        return y if kind is None or there == _on(y) else self._moved(y, there, name, non_blocking=non_blocking)

    def _moved(self, x: Tensor, to_device: bool, operation: str, *, non_blocking: bool = False) -> Tensor:
        def note(there: bool) -> None:
            if x.numel():
                copy: Kind = "queued copy" if non_blocking else "copy"
                self.record.add(copy if there else "synchronization", operation)

        return _Move.apply(x, to_device, note)  # pyright: ignore[reportReturnType]


class _Operations(TorchDispatchMode):
    """Every operation."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict | None = None) -> Any:
        with torch._C.DisableTorchFunction():
            given = [(x, _label(x)) for x in _tensors((args, kwargs))]
            on = any(label == "device" for _, label in given)
            off = [x for x, label in given if label is None and x.device.type != "meta"]
            if on:
                self._judge(func.overloadpacket, args, kwargs or {}, off)
            label = "device" if on else None if off else "any"
            before = {id(x.untyped_storage()) for x in off}
            result = func(*args, **(kwargs or {}))
            if label:
                _put(label, (x for x in _tensors(result) if id(x.untyped_storage()) not in before))
        return result

    def _judge(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], off: list[Tensor]) -> None:
        """Of an operation that some labelled tensor takes part in: what it costs, or that it cannot be."""
        name = operation.__name__
        if operation in WAITING and kwargs.get("output_size") is None:
            self.record.add("synchronization", name)
        elif operation is aten.copy_ and off:
            queued: Kind = "queued copy" if len(args) > 2 and args[2] else "copy"
            self.record.add(queued if _on(args[0]) else "synchronization", name)
        elif operation in FILLING and _on(args[-1]):
            self.record.add("synchronization", f"{name} with a number from there")
        elif operation in INDEXING and _on(args[0]):
            self._judge_index(name, *args[:3])
        elif any(x.ndim or operation in JOINING for x in off):
            self.record.add("mixed devices", f"{name}, CPU: {', '.join(str(tuple(x.shape)) for x in off)}")

    def _judge_index(self, name: str, x: Tensor, indices: list[Tensor | None], value: Tensor | None = None) -> None:
        number = value is not None and value.ndim == 0 and not _on(value)
        given = [i for i in indices if i is not None]
        masks = [i for i in given if i.dtype in (torch.bool, torch.uint8)]
        for _ in filter(_off, given):
            self.record.add("copy", f"{name} with a CPU index")
        if number and len(masks) == len(given):
            return  # a mask is filled with a number: no index is made
        for _ in masks:
            self.record.add("synchronization", f"{name} with a mask")
        if number:
            self.record.add("copy", f"{name} of a number")
        elif value is not None and _off(value):
            self.record.add("mixed devices", f"{name} of CPU values")
