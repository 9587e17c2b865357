"""Where a path is wanted: regions that hang together, and outlines around them."""

import math

import numpy as np
import pytest
import torch
from conftest import randn

from svg.additions import addition_steps, borders, connected_regions, outline_of, wanted_regions


def naive_regions(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """By flooding."""
    rest = {(int(y), int(x)) for y, x in zip(*mask.nonzero(), strict=True)}
    found = []
    while rest:
        todo, own = [rest.pop()], set()
        while todo:
            y, x = todo.pop()
            own.add((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & rest
            rest -= near
            todo += near
        found.append(own)
    return found


def test_regions_are_those_of_a_flood() -> None:
    mask = randn(0, 24, 31) > 0.7
    labels = connected_regions(mask)
    assert bool(((labels == 0) == ~mask).all())
    found = [{(int(y), int(x)) for y, x in (labels == k).nonzero()} for k in labels.unique() if k]
    assert sorted(map(sorted, found)) == sorted(map(sorted, naive_regions(mask.numpy())))


def test_the_outline_of_an_ellipse_has_its_place_and_area() -> None:
    y, x = torch.meshgrid(torch.arange(96.0) + 0.5, torch.arange(128.0) + 0.5, indexing="ij")
    u, v = (x - 40) * 0.8 + (y - 50) * 0.6, (y - 50) * 0.8 - (x - 40) * 0.6
    anchors = outline_of((u / 30).square() + (v / 8).square() < 1, 32) * (128, 96)
    np.testing.assert_allclose(anchors.mean(0), [40, 50], atol=0.5)
    a, b = anchors, np.roll(anchors, -1, 0)
    area = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2
    assert area == pytest.approx(math.pi * 30 * 8, rel=0.03)


def test_the_strongest_region_is_wanted_and_a_speck_is_not() -> None:
    now = torch.zeros(3, 40, 40)
    proposed = now.clone()
    proposed[:, 5:15, 5:15] = 0.5
    proposed[0, 25:31, 25:31] = 1.0  # brighter, but smaller
    region = wanted_regions(now, proposed, 8)[0]
    np.testing.assert_allclose(region.anchors.mean(0), [0.25, 0.25], atol=0.01)
    np.testing.assert_allclose(region.color, 0.5)
    assert not wanted_regions(now, now, 8)
    speck = now.clone()
    speck[:, 3, 3] = 1.0
    assert not wanted_regions(now, speck, 8)


def test_regions_are_of_one_color() -> None:
    now = torch.ones(3, 40, 60)
    proposed = now.clone()
    proposed[:, 5:25, 10:30] = torch.tensor([0.8, 0.1, 0.1])[:, None, None]
    proposed[:, 5:25, 30:40] = torch.tensor([0.1, 0.1, 0.8])[:, None, None]  # side by side
    region, other = wanted_regions(now, proposed, 12)
    np.testing.assert_allclose(other.color, [0.1, 0.1, 0.8], rtol=1e-6)
    np.testing.assert_allclose(region.color, [0.8, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(region.anchors.mean(0), [20 / 60, 15 / 40], atol=0.01)


def test_an_outline_follows_what_is_bent() -> None:
    """A crescent, whose center lies outside of it."""
    y, x = torch.meshgrid(torch.arange(96.0) + 0.5, torch.arange(96.0) + 0.5, indexing="ij")
    crescent = ((x - 48).square() + (y - 48).square() < 40**2) & ((x - 68).square() + (y - 48).square() > 40**2)
    anchors = outline_of(crescent, 24) * 96
    distances = torch.cdist(torch.from_numpy(anchors).float(), crescent.nonzero().flip(1).float() + 0.5).amin(1)
    assert float(distances.max()) < 3
    a, b = anchors, np.roll(anchors, -1, 0)
    area = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2
    assert area == pytest.approx(float(crescent.sum()), rel=0.1)


def test_the_border_of_a_ring_is_its_outer_one() -> None:
    ring = np.zeros((9, 9), bool)
    ring[2:7, 1:8] = True
    ring[4, 4] = False
    ring[8, 8] = True  # beside it
    found = borders(ring)
    assert {tuple(p) for p in found.tolist()} >= {(1.0, 2.0), (8.0, 2.0), (8.0, 7.0), (1.0, 7.0)}
    assert len(found) == 2 * (7 + 5)


def test_paths_are_added_in_the_middle_of_a_run() -> None:
    assert addition_steps(0, 100) == []
    assert addition_steps(1, 100) == [15]
    assert addition_steps(3, 100) == [15, 42, 70]
