"""A differentiable rasteriser for SVG in torch alone: fills, strokes, gradients, clips, group opacity; CPU or GPU.

    raster = Raster(document.root, document.width, document.height)
    picture = raster.render(values, 128, 128)          # premultiplied RGBA, gradients reach every tensor of `values`

Anti-aliasing is exact area coverage (svg/coverage.py); pictures agree with resvg's to about its 16 grey levels an edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from svg.compose import Begin, Box, End, Fill, Picture, Step, compose
from svg.coverage import boxes_of, coverage, spread
from svg.geometry import Outlines, Segments, stroke_edges
from svg.gradients import affine, paint
from svg.model import Clip, Draw, Fixed, Geometry, Gradient, Group, Paint, Solid, Stroke

RGBA = Float[Tensor, "4 H W"]  # premultiplied


@dataclass(frozen=True)
class _Shape:
    """One outline to cover: a draw's fill or its stroke."""

    draw: Draw
    geometry: int
    stroke: Stroke | None

    @property
    def paint(self) -> Paint | None:
        return self.stroke.paint if self.stroke else self.draw.fill

    @property
    def opacity(self) -> str | None:
        return self.stroke.opacity if self.stroke else self.draw.fill_opacity


class Raster:
    """A page of `width` x `height` px, ready to be drawn with any numbers at any size."""

    def __init__(self, root: Group, width: float, height: float) -> None:
        self.root, self.width, self.height = root, width, height
        self.shapes: list[_Shape] = []
        self._of: dict[tuple[int, bool], int] = {}  # (id of a draw, stroke) -> shape
        self._clips: set[int] = set()
        self._pictures: dict[tuple[int, int, int, torch.device], Tensor] = {}
        geometries: dict[Geometry, int] = {}
        self._collect(root, geometries)
        self.outlines = Outlines(list(geometries))
        identity = torch.eye(3, dtype=torch.float64)
        frames = [affine(s.draw.matrix, identity) for s in self.shapes]
        self.frames = torch.stack(frames) if frames else identity.new_zeros(0, 3, 3)  # of each shape, to the page's px

    def _collect(self, node: Group | Draw | Fixed | Clip, geometries: dict[Geometry, int]) -> None:
        if isinstance(node, Group):
            for child in node.children:
                self._collect(child, geometries)
            if node.clip:
                self._collect(node.clip, geometries)
        elif isinstance(node, Clip):
            if id(node) in self._clips:
                return
            self._clips.add(id(node))
            for draw, within in node.draws:
                self._add(draw, None, geometries)
                if within:
                    self._collect(within, geometries)
            if node.clip:
                self._collect(node.clip, geometries)
        elif isinstance(node, Draw):
            if node.fill:
                self._add(node, None, geometries)
            if node.stroke:
                self._add(node, node.stroke, geometries)

    def _add(self, draw: Draw, stroke: Stroke | None, geometries: dict[Geometry, int]) -> None:
        if (id(draw), bool(stroke)) not in self._of:
            self._of[id(draw), bool(stroke)] = len(self.shapes)
            self.shapes.append(_Shape(draw, geometries.setdefault(draw.geometry, len(geometries)), stroke))

    def fixed(self, part: Fixed, height: int, width: int, device: torch.device) -> Float[Tensor, "H W 4"]:
        """resvg's picture of what is not edited, premultiplied; drawn once for each size."""
        from svg import resvg

        place = (id(part), height, width, device)
        if place not in self._pictures:
            self._pictures[place] = resvg.draw(part.svg, height, width).to(device)
        return self._pictures[place]

    def render(self, values: Mapping[str, Tensor], height: int, width: int) -> RGBA:
        """The page at `height` x `width` px, transparent where nothing is drawn."""
        return render([self], [values], height, width)[0]


@dataclass(frozen=True)
class _Edges:
    edges: Tensor
    owner: Tensor
    low: Tensor  # bounds of each geometry in its own units
    high: Tensor


def _edges(page: Raster, values: Mapping[str, Tensor], matrices: Float[Tensor, "s 3 3"]) -> _Edges:
    """All shapes' edges in canvas px."""
    shapes = page.shapes
    if not shapes:
        none = matrices.new_zeros(0, 2)
        return _Edges(matrices.new_zeros(0, 2, 2), none.long()[:, 0], none, none)
    which = torch.tensor([s.geometry for s in shapes], dtype=torch.long, device=matrices.device)
    norms = torch.linalg.matrix_norm(matrices[:, :2, :2])  # Frobenius, at least the largest stretch
    half = [float(values[s.stroke.width].detach()) / 2 if s.stroke else 0.0 for s in shapes]
    norms = norms * (1 + norms * norms.new_tensor(half))  # a stroke's sides and caps turn about its middle line
    count = len(page.outlines.geometries)
    scales = norms.new_zeros(count).scatter_reduce(0, which, norms, "amax")
    segments = page.outlines.flatten(values, scales)
    both = torch.cat([segments.start, segments.end]).detach()
    of = segments.geometry.repeat(2)[:, None].expand(-1, 2)
    low = both.new_full((count, 2), torch.inf).scatter_reduce(0, of, both, "amin")
    high = both.new_full((count, 2), -torch.inf).scatter_reduce(0, of, both, "amax")

    fills = [i for i, s in enumerate(shapes) if s.stroke is None]
    parts: list[tuple[Tensor, Tensor]] = []
    if fills:
        loops, geometry = segments.fill_edges()
        shape = torch.tensor(fills, device=which.device)
        chosen, place = _members(geometry, count, which[shape])
        parts.append((loops[chosen], shape[place]))
    styles: dict[Stroke, list[int]] = {}
    for i, s in enumerate(shapes):
        if s.stroke:
            own = ("", i) if s.stroke.dashes else ("", "")  # dashes are cut shape by shape
            style = replace(s.stroke, paint=Solid(str(own)), opacity="", width="")
            styles.setdefault(style, []).append(i)
    for style, members in styles.items():
        shape = torch.tensor(members, device=which.device)
        chosen, place = _members(segments.geometry, count, which[shape])
        own = _copies(segments, chosen, place, len(members))
        if style.dashes:
            own = own.dashed(style.dashes, style.dash_offset)
            place = torch.zeros_like(own.contour)
        own, kept = _with_length(own, style.cap != "butt")
        place = place[kept]
        if len(place):
            half = torch.stack([values[shapes[i].stroke.width].reshape(()) for i in members]).to(both) / 2  # pyright: ignore[reportOptionalMemberAccess]
            px = matrices[shape][:, :2, :2].det().abs().sqrt()
            edges, segment = stroke_edges(own, half[place], px[place], style)
            parts.append((edges, shape[place[segment]]))
    if not parts:
        return _Edges(both.new_zeros(0, 2, 2), which[:0], low, high)
    edges, owner = torch.cat([e for e, _ in parts]), torch.cat([o for _, o in parts])
    m = matrices[owner]
    return _Edges(torch.einsum("eij,epj->epi", m[:, :2, :2], edges) + m[:, None, :2, 2], owner, low, high)


def _members(group: Tensor, groups: int, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of all elements of each wanted group, one group after the other, and which of the wanted it is."""
    order = torch.argsort(group, stable=True)
    counts = torch.bincount(group, minlength=groups)
    first = counts.cumsum(0) - counts
    place, k = spread(counts[wanted])
    return order[first[wanted][place] + k], place


def _copies(segments: Segments, chosen: Tensor, place: Tensor, copies: int) -> Segments:
    """Chosen segments, each copy's contours numbered on their own."""
    part = segments.where(chosen)
    return replace(part, contour=part.contour + place * len(segments.closed), closed=segments.closed.repeat(copies))


def _with_length(segments: Segments, dots: bool) -> tuple[Segments, Tensor]:
    """Segments that have a length; with `dots`, contours without any become a speck that caps can enclose."""
    length = (segments.end - segments.start).detach().norm(dim=1)
    real = length > 1e-9
    if dots and not bool(real.all()):
        has = torch.zeros(len(segments.closed), dtype=torch.bool, device=real.device)
        has[segments.contour[real]] = True
        first, _ = segments.ends()
        speck = first[~has[segments.contour[first]]]
        closed = segments.closed.clone()
        closed[segments.contour[speck]] = False
        end = segments.end.clone()
        end[speck, 0] += 1e-6
        real[speck] = True
        segments = replace(segments, end=end, closed=closed)
    kept = real.nonzero()[:, 0]
    return segments.where(kept), kept


def render(
    pages: Sequence[Raster], values: Sequence[Mapping[str, Tensor]], height: int, width: int
) -> Float[Tensor, "b 4 H W"]:
    """Several pages at one size, each with its own numbers; premultiplied RGBA. Edges of all are covered at once."""
    found, matrices = [], []
    for page, own in zip(pages, values, strict=True):
        device = next((v.device for v in own.values()), torch.device("cpu"))
        like = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
        view = affine((width / page.width, 0.0, 0.0, height / page.height, 0.0, 0.0), like)
        matrices.append(view @ page.frames.to(like))
        found.append(_edges(page, {k: v.to(like) for k, v in own.items()}, matrices[-1]))
    offsets = [sum(len(p.shapes) for p in pages[:i]) for i in range(len(pages) + 1)]
    shapes = [s for page in pages for s in page.shapes]
    drawn = [(f.edges, f.owner + o) for f, o in zip(found, offsets, strict=False)]
    edges, owner = torch.cat([e for e, _ in drawn]), torch.cat([o for _, o in drawn])
    boxes = boxes_of(edges, owner, len(shapes), width, height)
    rules = [s.stroke is None and s.draw.fill_rule == "evenodd" for s in shapes]
    evenodd = torch.tensor(rules, dtype=torch.bool, device=edges.device)
    flat = coverage(edges, owner, boxes, evenodd).float()
    rows = list(zip(boxes.start.tolist(), boxes.stride.tolist(), strict=True))
    places = torch.stack([boxes.left, boxes.top, boxes.width, boxes.height], 1).tolist()
    pictures = []
    for i, (page, own) in enumerate(zip(pages, values, strict=True)):
        part = slice(offsets[i], offsets[i + 1])
        pictures.append(_compose(page, own, flat, rows[part], places[part], matrices[i], found[i], height, width))
    return torch.stack(pictures)


def _compose(
    page: Raster,
    values: Mapping[str, Tensor],
    flat: Tensor,
    rows: list[tuple[int, int]],
    places: list[list[int]],
    matrices: Tensor,
    edges: _Edges,
    height: int,
    width: int,
) -> RGBA:
    """Paint a page's shapes and layers in order."""
    device = matrices.device
    colours, maps, map_of = _paints(page, values, places, matrices, edges, device)
    opacities: list[Tensor] = []
    tape: list[Step] = []

    def covered(i: int) -> Tensor:
        full = flat.new_zeros(height, width)
        x, y, w, h = places[i]
        start, stride = rows[i]
        full[y : y + h, x : x + w] = flat.detach()[start : start + stride * h].view(h, stride)[:, :w]
        return full

    masks: dict[int, Tensor] = {}

    def clip_mask(clip: Clip | None) -> Tensor | None:
        if clip is None:
            return None
        if id(clip) not in masks:
            masks[id(clip)] = make_mask(clip)
        return masks[id(clip)]

    def make_mask(clip: Clip) -> Tensor:
        hidden = flat.new_ones(height, width)
        for draw, within in clip.draws:
            own = covered(page._of[id(draw), False])
            inner = clip_mask(within)
            hidden = hidden * (1 - (own if inner is None else own * inner))
        outer = clip_mask(clip.clip)
        return 1 - hidden if outer is None else (1 - hidden) * outer

    def opacity_index(key: str | None) -> int | None:
        if key is None:
            return None
        opacities.append(values[key].reshape(()).float())
        return len(opacities) - 1

    def fill(i: int, clip: Tensor | None, opacity: int | None) -> None:
        if places[i][2] > 0:
            tape.append(Fill(i, Box(places[i]), map_of.get(i), clip, opacity))

    def visit(node: Group | Draw | Fixed, clip: Tensor | None = None, opacity: int | None = None) -> None:
        if isinstance(node, Draw):
            order = [page._of.get((id(node), s)) for s in ((True, False) if node.stroke_first else (False, True))]
            for i in order:
                if i is not None:
                    fill(i, clip, opacity)
        elif isinstance(node, Fixed):
            tape.append(Picture(page.fixed(node, height, width, device), clip))
        else:
            mask, dim = clip_mask(node.clip), opacity_index(node.opacity)
            alone = len(node.children) == 1 and isinstance(node.children[0], Draw)
            alone = alone and not (node.children[0].fill and node.children[0].stroke)  # pyright: ignore[reportAttributeAccessIssue]
            if alone and clip is None and opacity is None:
                visit(node.children[0], mask, dim)
                return
            layered = mask is not None or dim is not None
            if layered:
                tape.append(Begin())
            for child in node.children:
                visit(child)
            if layered:
                tape.append(End(dim, mask))

    visit(page.root)
    dims = torch.stack(opacities) if opacities else torch.zeros(0, device=device)
    return compose((height, width), tape, rows, flat, colours, dims, maps).permute(2, 0, 1)


def _paints(
    page: Raster,
    values: Mapping[str, Tensor],
    places: list[list[int]],
    matrices: Tensor,
    edges: _Edges,
    device: torch.device,
) -> tuple[Tensor, list[Tensor], dict[int, int]]:
    """Every shape's colour and opacity, the gradients' pictures, and which shape has which."""
    black, one = torch.zeros(3, device=device), torch.ones(1, device=device)
    colours, maps, map_of = [], [], {}
    for i, s in enumerate(page.shapes):
        own = s.paint
        colour = values[own.key].reshape(3).float() if isinstance(own, Solid) else black
        opacity = values[s.opacity].reshape(1).float() if s.opacity is not None else one
        colours.append(torch.cat([colour, opacity]))
        if isinstance(own, Gradient) and places[i][2] > 0:
            low, high = edges.low[s.geometry].tolist(), edges.high[s.geometry].tolist()
            bounds = (low[0], low[1], high[0] - low[0], high[1] - low[1])
            to_user = torch.linalg.inv(matrices[i])
            map_of[i] = len(maps)
            maps.append(paint(own, values, to_user, bounds, tuple(places[i])).float())  # pyright: ignore[reportArgumentType]
    return torch.stack(colours) if colours else black.new_zeros(0, 4), maps, map_of


def over(picture: Float[Tensor, "b 4 H W"], ground: Tensor) -> Float[Tensor, "b 3 H W"]:
    """The picture on an opaque ground (broadcastable to (b, 3, H, W), RGB in [0, 1])."""
    return picture[:, :3] + (1 - picture[:, 3:]) * ground
