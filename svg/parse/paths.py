"""Path data and outlines: reading and writing `d` and `points`, bounds."""

import math
import re
from collections.abc import Iterator

import numpy as np

from svg.model import POINTS
from svg.parse.arcs import arc
from svg.parse.values import NUMBER, NUMBERS, plain

SEGMENT = re.compile(rf"[\s,]*([MmZzLlHhVvCcSsQqTtAa])((?:[\s,]*+{NUMBER})*+)\s*+")
ARC = re.compile(
    rf"[\s,]*({NUMBER})[\s,]*({NUMBER})[\s,]*({NUMBER})[\s,]*([01])[\s,]*([01])[\s,]*({NUMBER})[\s,]*({NUMBER})"
)
ARGUMENTS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7}


class Outline:
    """Collects commands and absolute points; a subpath that draws nothing leaves nothing."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.points: list[float] = []
        self.at = self.start = (0.0, 0.0)

    def move(self, x: float, y: float) -> None:
        """Begin a subpath, forgetting one that was only begun."""
        self._drop_move()
        self.commands.append("M")
        self.points += (x, y)
        self.at = self.start = (x, y)

    def add(self, command: str, *points: float) -> None:
        """Add a segment; after a closed subpath the next one begins at the same point."""
        if self.commands[-1] == "Z":
            self.move(*self.start)
        self.commands.append(command)
        self.points += points
        self.at = (points[-2], points[-1]) if points else self.start

    def done(self) -> tuple[str, np.ndarray]:
        """The commands and the points (n, 2)."""
        self._drop_move()
        return "".join(self.commands), np.array(self.points, dtype=np.float64).reshape(-1, 2)

    def _drop_move(self) -> None:
        if self.commands and self.commands[-1] == "M":
            self.commands.pop()
            del self.points[-2:]


def read_path(text: str) -> tuple[str, np.ndarray]:
    """Commands (of MLQCZ) and absolute points (n, 2) of path data, up to its first error as SVG prescribes."""
    outline = Outline()
    previous, control = "", (0.0, 0.0)  # the last command and its last control point, for S and T
    for command, relative, arguments in _segments(text):
        if not previous and command != "M":
            break
        x, y = outline.at
        ox, oy = (x, y) if relative else (0.0, 0.0)
        points = [v + (oy if i % 2 else ox) for i, v in enumerate(arguments)]
        if command == "M":
            outline.move(*points)
        elif command == "Z":
            outline.add("Z")
        elif command == "L":
            outline.add("L", *points)
        elif command == "H":
            outline.add("L", points[0], y)
        elif command == "V":
            outline.add("L", x, arguments[0] + oy)
        elif command == "C":
            outline.add("C", *points)
            control = (points[2], points[3])
        elif command == "S":
            first = (2 * x - control[0], 2 * y - control[1]) if previous in "CS" else (x, y)
            outline.add("C", *first, *points)
            control = (points[0], points[1])
        elif command == "Q":
            outline.add("Q", *points)
            control = (points[0], points[1])
        elif command == "T":
            control = (2 * x - control[0], 2 * y - control[1]) if previous in "QT" else (x, y)
            outline.add("Q", *control, *points)
        else:
            rx, ry, angle, large, sweep, ex, ey = arguments
            for cubic in arc((x, y), (rx, ry), angle, bool(large), bool(sweep), (ex + ox, ey + oy)):
                outline.add("C" if len(cubic) == 6 else "L", *cubic)
        previous = command
    return outline.done()


def _segments(text: str) -> Iterator[tuple[str, bool, list[float]]]:
    """Each command in capitals, whether it is relative, and its arguments; ends at the first error."""
    position = 0
    while match := SEGMENT.match(text, position):
        position = match.end()
        letter, rest = match[1], match[2]
        command, relative = letter.upper(), letter.islower()
        if command == "Z":
            yield "Z", False, []
            if rest.strip():
                return
            continue
        if command == "A":
            sets, end = [], 0
            while found := ARC.match(rest, end):
                sets.append([float(v) for v in found.groups()])
                end = found.end()
            broken = bool(rest[end:].strip(" \t\r\n,"))
        else:
            values, count = [float(v) for v in NUMBERS.findall(rest)], ARGUMENTS[command]
            sets = [values[i : i + count] for i in range(0, len(values) - count + 1, count)]
            broken = len(values) % count != 0
        for i, arguments in enumerate(sets):
            yield ("L" if command == "M" and i else command), relative, arguments
        if broken or not sets:
            return


def read_points(text: str) -> np.ndarray:
    """Points (n, 2) of a polygon, up to the first error; a lone last coordinate is dropped."""
    clean = re.match(rf"(?:[\s,]*+{NUMBER})*+", text)
    values = [float(v) for v in NUMBERS.findall(clean[0] if clean else "")]
    return np.array(values[: len(values) // 2 * 2], dtype=np.float64).reshape(-1, 2)


def path_text(commands: str, points: np.ndarray, decimals: int) -> str:
    """`d` of absolute commands."""
    parts, at = [], 0
    for command in commands:
        end = at + POINTS[command]
        parts.append(command + " ".join(plain(float(v), decimals) for v in points[at:end].ravel()))
        at = end
    return "".join(parts)


def points_text(points: np.ndarray, decimals: int) -> str:
    """`points` of a polygon or polyline."""
    return " ".join(f"{plain(float(x), decimals)},{plain(float(y), decimals)}" for x, y in points)


def bounds(commands: str, points: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an outline's curves (not of its control points)."""
    shown, at = [], 0
    for command in commands:
        end = at + POINTS[command]
        segment = points[max(at - 1, 0) : end]
        shown.append(points[end - 1 : end])
        if command in "QC":
            shown.append(_extremes(segment))
        at = end
    all_points = np.concatenate(shown)
    (left, top), (right, bottom) = all_points.min(0), all_points.max(0)
    return float(left), float(top), float(right), float(bottom)


def _roots(a: float, b: float, c: float) -> list[float]:
    """The real t with a t^2 + b t + c = 0, if they are finitely many."""
    discriminant = b * b - 4 * a * c
    if not discriminant >= 0:  # or not a number
        return []
    q = -(b + math.copysign(math.sqrt(discriminant), b)) / 2  # nothing cancels
    return [x / y for x, y in ((q, a), (c, q)) if y]


def _extremes(p: np.ndarray) -> np.ndarray:
    """Points of one Bezier curve (its control points p) where x or y turns round."""
    degree = len(p) - 1
    slopes = np.diff(p, axis=0)
    times = []
    for axis in range(2):
        d = slopes[:, axis]
        polynomial = (0.0, d[1] - d[0], d[0]) if degree == 2 else (d[0] - 2 * d[1] + d[2], 2 * (d[1] - d[0]), d[0])
        times += [t for t in _roots(*map(float, polynomial)) if 0 < t < 1]
    weights = [[math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)] for t in times]
    return np.array(weights).reshape(-1, degree + 1) @ p
