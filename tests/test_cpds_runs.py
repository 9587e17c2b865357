"""Run folders that are damaged or foreign: one sentence, or a warning where the run can go on without."""

import json
import math
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

Edit = Callable[..., int]


def encoded(form: str, size: tuple[int, int] = (40, 28)) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, "teal").save(buffer, form)
    return buffer.getvalue()


def rewrite(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """Change the tensors of a checkpoint."""

    def damage(file: Path) -> None:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return damage


def spoiled(name: str, value: float) -> Callable[[Path], object]:
    return rewrite(lambda t: t[name].view(-1)[:1].fill_(value))


LATENT, MOMENT, NET = "param.latent.0", "optimizer.0.exp_avg", "selector.0.net.0.weight"
DAMAGED_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut off": (lambda file: os.truncate(file, file.stat().st_size // 2), "damaged"),
    "empty": (lambda file: os.truncate(file, 0), "damaged"),
    "garbage": (lambda file: file.write_bytes(b"garbage" * 99), "damaged"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "damaged"),
    "of another program": (lambda file: save_file({"x": torch.zeros(1)}, file), "missing"),
    "of another shape": (rewrite(lambda t: t.update({LATENT: torch.zeros(1, 4, 3, 3)})), LATENT),
    "that would broadcast": (rewrite(lambda t: t.update({LATENT: torch.zeros(1, 4, 1, 1)})), LATENT),
    "of another precision": (rewrite(lambda t: t.update({LATENT: t[LATENT].double()})), "float64"),
    "NaN": (spoiled(LATENT, math.nan), f"{LATENT} holds NaN"),
    "infinity": (spoiled(LATENT, math.inf), f"{LATENT} holds NaN or infinite"),
    "NaN in a moment": (spoiled(MOMENT, math.nan), f"{MOMENT} holds NaN"),
    "NaN in the selector": (spoiled(NET, math.nan), f"{NET} holds NaN"),
    "step 10**9": (rewrite(lambda t: t.update(step=torch.tensor(10**9))), "step 1000000000 is not in 0 ... 5"),
    "step -5": (rewrite(lambda t: t.update(step=torch.tensor(-5))), "step -5 is not in 0 ... 5"),
    "step 1.5": (rewrite(lambda t: t.update(step=torch.tensor(1.5))), "step"),
    "two steps": (rewrite(lambda t: t.update(step=torch.tensor([1, 2]))), "step"),
    "no step": (rewrite(lambda t: t.pop("step")), "step is missing"),
    "no latent": (rewrite(lambda t: t.pop(LATENT)), f"{LATENT} is missing"),
    "half of the moments": (rewrite(lambda t: t.pop(MOMENT)), "parameter 0 lacks"),
    "a moment of another shape": (rewrite(lambda t: t.update({MOMENT: torch.zeros(2)})), "no moment 0.exp_avg"),
    "a moment too many": (rewrite(lambda t: t.update({"optimizer.7.exp_avg": torch.zeros(2)})), "7.exp_avg"),
    "a tensor too many": (rewrite(lambda t: t.update(x=torch.zeros(1))), "x is no part"),
    "a selector too many": (rewrite(lambda t: t.update({"selector.1.x": torch.zeros(0, 16)})), "selector.1.x"),
    "a selector of another width": (rewrite(lambda t: t.update({"selector.0.x": torch.zeros(4, 5)})), "patches"),
    "patches without labels": (rewrite(lambda t: t.update({"selector.0.y": torch.zeros(1)})), "patches"),
    "a selector's moment": (rewrite(lambda t: t.update({"selector.0.adam.0.exp_avg": torch.zeros(3)})), "no moment"),
    "no generator": (rewrite(lambda t: t.pop("selector.0.generator")), "generator is missing"),
    "a broken generator": (rewrite(lambda t: t["selector.0.generator"].fill_(7)), "checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGED_CHECKPOINTS)
def test_damaged_checkpoints(
    edit: Edit,
    refused: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pressed: Callable[[int], Any],
    damage: str,
) -> None:
    with pressed(3):
        flags = {"num_inference_steps": 5, "optimizer": "adam", "patch_selector": "learned", "selector_every": 2}
        assert edit(**flags) == 130
    break_it, words = DAMAGED_CHECKPOINTS[damage]
    break_it(tmp_path / "out/checkpoint.safetensors")
    capsys.readouterr()
    refused("checkpoint.safetensors is damaged", words, "start the run anew", resume=True)


def test_a_checkpoint_that_is_gone(edit: Edit, refused: Callable, tmp_path: Path) -> None:
    """A finished run is not begun again unasked; one that was killed before its first checkpoint begins at 0."""
    out = tmp_path / "out"
    assert edit() == 0
    result = (out / "result.png").read_bytes()
    (out / "checkpoint.safetensors").unlink()
    refused(
        "out holds result.png but no checkpoint.safetensors: put it back, or start", resume=True, num_inference_steps=4
    )
    assert (out / "result.png").read_bytes() == result
    (out / "result.png").unlink()
    assert (out / "metrics.jsonl").read_text().count("\n") > 0  # a line is written after every step
    assert edit(resume=True) == 0
    assert (out / "result.png").read_bytes() == result


def in_config(change: Callable[[dict], object]) -> Callable[[str], str]:
    """Change the document in a config.json."""

    def damage(text: str) -> str:
        document = json.loads(text)
        change(document)
        return json.dumps(document)

    return damage


DAMAGED_CONFIGS: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    "cut off": (lambda _: '{"prompt": ', "not valid JSON"),
    "null": (lambda _: "null", "holds None"),
    "a number": (lambda _: "3", "holds 3"),
    "a list": (lambda _: "[]", "holds []"),
    "a text": (lambda _: '"\\u001b[31m"', "holds '\\x1b[31m'"),
    "deep": (lambda _: "[" * 100_000, "not valid JSON"),
    "deep but closed": (lambda _: "[" * 100_000 + "]" * 100_000, "not valid JSON"),
    "bytes": (lambda _: b"\xff\xfe\0{}", "not valid JSON"),
    "of an older version": (in_config(lambda d: d.pop("arguments")), "arguments is None"),
    "without steps": (in_config(lambda d: d["edit"].pop("num_inference_steps")), "lacks edit.num_inference_steps"),
    "with another setting": (in_config(lambda d: d["edit"].update(magic=3)), "unknown is edit.magic"),
    "edit is a list": (in_config(lambda d: d.update(edit=[])), "edit is []"),
    "lr is a text": (in_config(lambda d: d["edit"].update(lr="fast")), "edit.lr is 'fast'"),
    "lr is NaN": (in_config(lambda d: d["edit"].update(lr=math.nan)), "edit.lr is nan"),
    "lr is huge": (in_config(lambda d: d["edit"].update(lr=10**400)), "edit.lr is 1"),
    "steps are true": (in_config(lambda d: d["edit"].update(num_inference_steps=True)), "num_inference_steps is True"),
    "steps are -1": (in_config(lambda d: d["edit"].update(num_inference_steps=-1)), "must be >= 1, got -1"),
    "an unknown method": (in_config(lambda d: d["edit"]["guidance"].update(method="magic")), "method must be one of"),
    "rates of groups": (in_config(lambda d: d["edit"].update(group_lrs={"latent": "x"})), "group_lrs.latent is 'x'"),
    "no target": (in_config(lambda d: d["arguments"].update(target_prompt=[])), "which edits"),
    "two targets": (in_config(lambda d: d["arguments"].update(target_prompt=["a", "b"])), "which edits"),
    "a path with NUL": (in_config(lambda d: d["arguments"].update(img_path="a\0b")), "img_path is 'a\\x00b'"),
    "half a letter": (in_config(lambda d: d["arguments"].update(prompt="\ud800")), "prompt is '\\ud800'"),
}


@pytest.mark.parametrize("damage", DAMAGED_CONFIGS)
def test_damaged_configs(
    edit: Edit, refused: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    assert edit(num_inference_steps=1) == 0
    break_it, words = DAMAGED_CONFIGS[damage]
    config = tmp_path / "out/config.json"
    broken = break_it(config.read_text())
    config.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    capsys.readouterr()
    refused("config.json is damaged", words, "start the run anew", resume=True)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda _: "null", "holds None"),
        (in_config(lambda d: d.update(edits=[])), "which edits"),
        (in_config(lambda d: d.update(edits=[["", "a dog"]])), "edits is ['', 'a dog']"),
        (in_config(lambda d: d.update(edits=2 * [["", "a dog", "same"]])), "which edits"),
        (in_config(lambda d: d.update(edits=[["", "a dog", "../elsewhere"]])), "leads out of its folder"),
        (in_config(lambda d: d.update(edits=[["/etc/passwd", "a dog", "x"]])), "leads out of its folder"),
    ],
)
def test_damaged_plans(
    edit: Edit,
    refused: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    break_it: Callable[[str], str],
    words: str,
) -> None:
    assert edit(num_inference_steps=1, trg_prompt=["a dog", "a pig"]) == 0
    plan = tmp_path / "out/plan.json"
    plan.write_text(break_it(plan.read_text()))
    capsys.readouterr()
    refused("plan.json is damaged", words, resume=True)


@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_config_among_several(
    edit: Edit, tmp_path: Path, sentence: Callable[[], str], capsys: pytest.CaptureFixture[str], finished: bool
) -> None:
    assert edit(num_inference_steps=1, trg_prompt=["a dog", "a pig"]) == 0
    (tmp_path / "out/cat-a-dog/config.json").write_text("3")
    if not finished:
        (tmp_path / "out/cat-a-pig/result.png").unlink()
    capsys.readouterr()
    assert edit(resume=True) == 2
    assert "cat-a-dog/config.json is damaged" in sentence()


LOGS: dict[str, tuple[bytes, bool]] = {  # in the place of the second of three lines, and whether that is printed
    "nothing": (b"", True),
    "an empty object": (b"{}", True),
    "a number": (b"3", True),
    "another step": (b'{"step": "two"}', True),
    "bytes": (b"\xff\xfe\0", True),
    "deep": (b"[" * 100_000, True),
    "of a step to come": (b'{"step": 99}', False),
}


@pytest.mark.parametrize("damage", LOGS)
def test_damaged_logs(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str], pressed: Callable[[int], Any], damage: str
) -> None:
    with pressed(3):
        assert edit(num_inference_steps=4) == 130
    log = tmp_path / "out/metrics.jsonl"
    first, _, third = log.read_bytes().splitlines(keepends=True)
    line, told = LOGS[damage]
    log.write_bytes(first + line + b"\n" + third + b'{"step": 3, "dire')  # the last one is cut off by a kill
    capsys.readouterr()
    assert edit(resume=True) == 0
    kept = log.read_bytes().splitlines(keepends=True)
    assert kept[:2] == [first, third]
    assert [json.loads(x)["step"] for x in kept] == [1, 3, 4]
    message = [x for x in capsys.readouterr().err.splitlines() if "warning" in x]
    assert len(message) == told
    assert all("metrics.jsonl: 1 of 3 lines cannot be read and are dropped" in x for x in message)


def test_frames_that_are_foreign_or_damaged(
    edit: Edit, tmp_path: Path, capsys: pytest.CaptureFixture[str], pressed: Callable[[int], Any]
) -> None:
    with pressed(3):
        assert edit(num_inference_steps=5) == 130
    frames = tmp_path / "out/frames"
    mine = {"abc.png": b"mine", "²³²³²³.png": b"mine too", "000001.txt": b"notes"}
    for name, content in mine.items():
        (frames / name).write_bytes(content)
    os.truncate(frames / "000002.png", 60)
    (frames / "000003.png").write_bytes(encoded("png", (99, 99)))
    capsys.readouterr()
    assert edit(resume=True) == 0
    message = [x for x in capsys.readouterr().err.splitlines() if "cpds:" in x]
    assert message == [
        f"cpds: warning: {frames / f'00000{i}.png'} is damaged: it is left out of trajectory.gif" for i in (2, 3)
    ]
    assert {name: (frames / name).read_bytes() for name in mine} == mine
    with Image.open(tmp_path / "out/trajectory.gif") as gif:
        assert gif.n_frames == 5  # the source, frames 1, 4 and 5, and the result, which is polished
