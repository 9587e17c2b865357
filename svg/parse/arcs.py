"""Elliptical arcs as cubics."""

import math

Point = tuple[float, float]


def arc(start: Point, radii: Point, degrees: float, large: bool, sweep: bool, end: Point) -> list[tuple[float, ...]]:
    """An elliptical arc as cubics of at most 90 degrees (SVG 2, appendix B.2): three points each, the last is `end`.

    Radii of (next to) zero give a straight line, equal ends nothing.
    """
    (x1, y1), (x2, y2), (rx, ry) = start, end, (abs(radii[0]), abs(radii[1]))
    if start == end:
        return []
    if min(rx, ry) <= 1e-9 * max(rx, ry):
        return [end]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    hx, hy = (x1 - x2) / 2, (y1 - y2) / 2
    # half the chord in units of the radii, in the ellipse's axes
    u, v = (c * hx + s * hy) / rx, (c * hy - s * hx) / ry
    size = u * u + v * v
    if size > 1:
        rx, ry, u, v = (rx * math.sqrt(size), ry * math.sqrt(size), u / math.sqrt(size), v / math.sqrt(size))
        size = 1.0
    reach = math.sqrt(max(0.0, 1 / size - 1)) if size else 0.0
    if large == sweep:
        reach = -reach
    cu, cv = reach * v, -reach * u
    theta = math.atan2(v - cv, u - cu)
    delta = math.atan2(-v - cv, -u - cu) - theta
    if sweep and delta < 0:
        delta += 2 * math.pi
    elif not sweep and delta > 0:
        delta -= 2 * math.pi
    mx, my = (x1 + x2) / 2, (y1 + y2) / 2

    def place(p: float, q: float) -> Point:
        """From the unit circle about the arc's center to user space."""
        p, q = rx * (p + cu), ry * (q + cv)
        return mx + c * p - s * q, my + s * p + c * q

    count = max(1, math.ceil(abs(delta) / (math.pi / 2) - 1e-9))
    step = delta / count
    handle = 4 / 3 * math.tan(step / 4)
    cubics = []
    for i in range(count):
        a, b = theta + i * step, theta + (i + 1) * step
        ca, sa, cb, sb = math.cos(a), math.sin(a), math.cos(b), math.sin(b)
        last = end if i == count - 1 else place(cb, sb)
        cubics.append((*place(ca - handle * sa, sa + handle * ca), *place(cb + handle * sb, sb - handle * cb), *last))
    return cubics
