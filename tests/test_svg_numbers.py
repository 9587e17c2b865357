"""Numbers in one tensor against a dict of tensors."""

import pytest
import torch
from conftest import randn

from svg.numbers import Keys, Layout, Numbers

SHAPES = {"a": (3, 2), "b": (), "c": (4,), "d": (0,)}


def test_each_key_has_its_tensor_and_many_are_gathered_with_repetition() -> None:
    numbers = Numbers(randn(0, 11).requires_grad_(), Layout(SHAPES))
    plain = {key: numbers[key].detach().clone().requires_grad_() for key in numbers}
    assert {key: tuple(x.shape) for key, x in plain.items()} == SHAPES
    keys, weights = Keys(["c", "b", "a", "b"]), randn(1, 12)
    found, expected = keys.of(numbers), keys.of(plain)
    assert torch.equal(found, expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert numbers.flat.grad is not None
    gradient = Numbers(numbers.flat.grad, numbers.layout)
    for key, x in plain.items():
        assert torch.equal(gradient[key], torch.zeros_like(x) if x.grad is None else x.grad), key


def test_keys_may_be_looked_up_in_one_layout_and_then_in_another() -> None:
    keys, one, other = Keys(["b", "a"]), Layout({"a": (1,), "b": (2,)}), Layout({"b": (2,), "a": (1,)})
    flat = torch.arange(3.0)
    assert keys.of(Numbers(flat, one)).tolist() == [1, 2, 0]
    assert keys.of(Numbers(flat, other)).tolist() == [0, 1, 2]
    assert keys.of(Numbers(2 * flat, one)).tolist() == [2, 4, 0]
    with pytest.raises(KeyError, match="missing"):
        Keys(["missing"]).of(Numbers(flat, one))


def test_what_does_not_move_has_no_gradient() -> None:
    numbers = Numbers(randn(0, 11).requires_grad_(), Layout(SHAPES, ["a"]))
    assert [key for key in numbers if numbers[key].requires_grad] == ["a"]
    assert Keys(["b", "c"]).still(numbers)
    assert not Keys(["b", "c"]).of(numbers).requires_grad
    assert not Keys(["b", "a"]).still(numbers)
    assert Keys(["b", "a"]).of(numbers).requires_grad
    assert not Keys(["b"]).still(dict(numbers))
