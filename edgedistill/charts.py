"""Small charts as SVG text: a few kB each, coloured by the page's style sheet, so that dark and print just work.

Colours are the classes `c0`, `c1`, ... of the page; every text is escaped here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 320, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 34


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    colour: int  # number of the class c0, c1, ...
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Scale:
    """From values to pixels; logarithmic when asked."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return round(self.start + (at - low) / ((high - low) or 1) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Three to six round values inside the range."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            every = max(1, math.ceil((last - first) / 5))
            powers = [10.0**n for n in range(first, last + 1, every)]
            return [tick for tick in powers if self.low <= tick <= self.high * 1.0001]
        rough = (self.high - self.low) / 4 or 1
        unit = 10 ** math.floor(math.log10(rough))
        step = next(unit * one for one in (1, 2, 2.5, 5, 10) if unit * one >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_title: str,
    show: Callable[[float], str] = "{:g}".format,
    log: bool = False,
    top: float | None = None,
) -> str:
    """A line chart; empty text when no series has a point.

    Args:
        title: for readers of the page and for screen readers.
        series: lines; those without points are left out.
        x_title: below the axis.
        show: a y value as its tick's text.
        log: logarithmic y axis.
        top: the y axis ends here at the latest; None: at the largest value.
    """
    series = [one for one in series if one.points]
    if not series:
        return ""
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    if log:
        floor = min((y for y in ys if y > 0), default=1e-3)
        bounds = (10 ** math.floor(math.log10(floor)), 10 ** math.ceil(math.log10(max(max(ys), floor * 1.01))))
    else:
        margin = (max(ys) - min(ys)) * 0.08 or 0.02
        bounds = (max(0.0, min(ys) - margin), max(ys) + margin if top is None else min(top, max(ys) + margin))
    x_scale = _Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_scale = _Scale(bounds[0], bounds[1], HEIGHT - BOTTOM, TOP, log=log)
    parts = [_grid(y_scale, show)]
    for tick in (one for one in x_scale.ticks() if one == round(one)):  # an epoch is a whole number
        parts.append(_text(x_scale(tick), HEIGHT - BOTTOM + 15, f"{tick:g}", anchor="middle"))
    for one in series:
        at = " ".join(f"{x_scale(x)},{y_scale(y)}" for x, y in one.points)
        parts.append(f'<polyline class="line c{one.colour}" points="{at}"/>')
        if len(one.points) <= 40:
            parts += [
                f'<circle class="dot c{one.colour}" cx="{x_scale(x)}" cy="{y_scale(y)}" r="2.5">'
                f"<title>{escape(one.name)}: {escape(show(y))} at {x:g}</title></circle>"
                for x, y in one.points
            ]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_title, anchor="middle"))
    return _svg(title, WIDTH, HEIGHT, parts)


def columns(title: str, groups: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], *, x_title: str) -> str:
    """Grouped columns on a logarithmic axis from 0.0001 to 1: shares that differ by powers of ten."""
    width = 640
    y_scale = _Scale(1e-4, 1.0, HEIGHT - BOTTOM, TOP, log=True)
    room = (width - LEFT - RIGHT) / max(len(groups), 1)
    bar = room * 0.8 / max(len(series), 1)
    parts = [_grid(y_scale, "{:g}".format, width)]
    for i, group in enumerate(groups):
        x = LEFT + room * i
        parts.append(_text(x + room / 2, HEIGHT - BOTTOM + 15, group, anchor="middle"))
        for j, (name, values) in enumerate(series):
            y = y_scale(values[i])
            parts.append(
                f'<rect class="fill c{j}" x="{x + room * 0.1 + bar * j:.1f}" y="{y}" width="{bar * 0.92:.1f}" '
                f'height="{HEIGHT - BOTTOM - y:.1f}"><title>{escape(name)}: {values[i]:.4f}</title></rect>'
            )
    parts.append(_text((LEFT + width - RIGHT) / 2, HEIGHT - 4, x_title, anchor="middle"))
    return _svg(title, width, HEIGHT, parts)


def matrix(title: str, counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """A confusion matrix: truth down, answer across; the share of its row is the shade of a cell."""
    cell = 34 if len(names) <= 12 else 24
    short = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
    side = 16 + max((len(name) for name in short), default=1) * 7
    long = side > 40  # names that do not fit above a cell stand upright
    top = side if long else 24
    width, height = side + cell * len(names) + 8, top + cell * len(names) + 8
    parts = []
    for i, row in enumerate(counts):
        total = sum(row) or 1
        y = top + cell * i
        parts.append(_text(side - 6, y + cell / 2 + 4, short[i], anchor="end"))
        x = side + cell * (i + 0.5)
        turn = f' transform="rotate(-90 {x + 4} {top - 6})"' if long else ""
        parts.append(_text(x + (4 if long else 0), top - 6, short[i], anchor="start" if long else "middle", more=turn))
        for j, count in enumerate(row):
            share = count / total
            kind = "right" if i == j else "wrong"
            x = side + cell * j
            parts.append(
                f'<rect class="cell {kind}" x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                f'fill-opacity="{0.06 + 0.94 * share:.2f}"><title>{escape(names[i])} taken for {escape(names[j])}: '
                f"{count}</title></rect>"
            )
            if count:
                shade = ' class="on"' if share > 0.55 else ""
                parts.append(_text(x + cell / 2 - 0.5, y + cell / 2 + 4, str(count), anchor="middle", more=shade))
    return _svg(title, width, height, parts)


def _grid(scale: _Scale, show: Callable[[float], str], width: float = WIDTH) -> str:
    parts = []
    for tick in scale.ticks():
        y = scale(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_text(LEFT - 6, y + 4, show(tick), anchor="end"))
    return "".join(parts)


def _text(x: float, y: float, text: str, *, anchor: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    name = escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{name}">{"".join(parts)}</svg>'
    )
