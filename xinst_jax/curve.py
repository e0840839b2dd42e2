"""The losses of a training as a picture: one SVG file that needs nothing else."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

# Of the picture in pixels, and of the plot in it.
_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 700.0, 40.0, 355.0
_STYLE = """
text { font: 13px sans-serif; fill: #333 }
.axis { stroke: #888 } .grid { stroke: #8884 }
.each { stroke: #4e79a7; opacity: .35 } .smooth { stroke: #4e79a7; stroke-width: 2 }
.held { stroke: #e15759; stroke-width: 2 } circle { fill: #e15759 }
polyline { fill: none } .paper { fill: #fff }
@media (prefers-color-scheme: dark) {
  text { fill: #ccc } .paper { fill: #1b1b1f }
  .each, .smooth { stroke: #7fb1e3 } .held { stroke: #ff8a80 } circle { fill: #ff8a80 }
}
"""


def loss_curve(log: Sequence[Mapping[str, Any]]) -> str:
    """Each step's loss, its running mean, and the held-out losses.

    Args:
      log: As `train.fit` returns it.
    """
    losses, held = (
        [(float(entry["step"]), entry[name]) for entry in log if name in entry]
        for name in ("loss", "held_out_loss")
    )
    smooth = _running_mean(losses, max(1, len(losses) // 30))
    highest = max(loss for _, loss in [*losses, *held])
    steps, heights = _ticks(losses[-1][0]), _ticks(highest)
    right, top = losses[-1][0], max(highest, 1e-9)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        step, loss = point
        x = _LEFT + (_RIGHT - _LEFT) * step / right
        return x, _BOTTOM - (_BOTTOM - _TOP) * loss / top

    def line(points: Sequence[tuple[float, float]], kind: str) -> str:
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, points))
        return f'<polyline class="{kind}" points="{joined}"/>'

    drawn = [f"<style>{_STYLE}</style>"]
    drawn.append(f'<rect class="paper" width="{_WIDTH}" height="{_HEIGHT}"/>')
    for height in heights:
        _, y = place((0.0, height))
        drawn.append(_line(_LEFT, y, _RIGHT, y, "grid"))
        drawn.append(_text(_LEFT - 8, y + 4, f"{height:g}", "end"))
    for step in steps:
        x, _ = place((step, 0.0))
        drawn.append(_line(x, _BOTTOM, x, _BOTTOM + 5, "axis"))
        drawn.append(_text(x, _BOTTOM + 20, f"{step:g}", "middle"))
    drawn.append(_line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis"))
    drawn.append(_text((_LEFT + _RIGHT) / 2, _BOTTOM + 38, "step", "middle"))
    drawn.append(_text(10.0, 20.0, "loss, nats a target token", "start"))
    drawn += [line(losses, "each"), line(smooth, "smooth")]
    drawn += [
        _line(380.0, 16.0, 410.0, 16.0, "smooth"),
        _text(416.0, 20.0, "training", "start"),
    ]
    if held:
        drawn += [line(held, "held"), *map(_dot, map(place, held))]
        last = f"held out, {held[-1][1]:.3f} at the end"
        drawn += [
            _line(490.0, 16.0, 520.0, 16.0, "held"),
            _text(526.0, 20.0, last, "start"),
        ]
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    body = "\n".join(drawn)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{body}\n</svg>\n'


def _running_mean(
    points: Sequence[tuple[float, float]], window: int
) -> list[tuple[float, float]]:
    """The mean over `window` points up to each."""
    sums = list(itertools.accumulate((loss for _, loss in points), initial=0.0))
    means = []
    for i, (step, _) in enumerate(points, start=1):
        first = max(0, i - window)
        means.append((step, (sums[i] - sums[first]) / (i - first)))
    return means


def _ticks(largest: float) -> list[float]:
    """From 0 up to `largest`, four to nine round numbers."""
    if largest <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(largest / 4))
    unit = max(u for u in (1, 2, 5) if u * power <= largest / 4) * power
    return [unit * i for i in range(int(largest / unit + 1e-9) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {ends}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _dot(at: tuple[float, float]) -> str:
    return f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3.5"/>'
