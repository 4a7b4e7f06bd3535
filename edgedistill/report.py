"""One self-contained page about one run: inline SVG, no script, nothing fetched."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from edgedistill.metrics import softmax
from edgedistill.runs import MODELS
from edgedistill.steps import Manifest

TEMPERATURES = (1, 2, 4, 8)
_NAMES = {"teacher": "teacher", "vanilla": "vanilla", "student_fp32": "student fp32", "student_int8": "student int8"}


def draw_plots(steps: Mapping[str, Manifest]) -> dict[str, str]:
    """Title -> SVG, from the manifests of a run's steps. Slow to draw, so a report keeps them."""
    student = steps["distill_student"].outputs["history"]
    vanilla = steps["distill_vanilla"].outputs["history"]
    evaluation = steps["evaluate_student"].outputs
    logits = np.asarray(evaluation["teacher_logits_sample"], np.float32)
    plots = {
        "Validation, student and vanilla twin": _svg(lambda axes: _curves(axes, student, vanilla), columns=3),
        "The teacher's soft targets": _svg(lambda axes: _soft_targets(axes[0], logits)),
    }
    if evaluation["confusion"]:
        classes, counts = steps["ingest_images"].outputs["classes"], np.asarray(evaluation["confusion"])
        title = "Confusion of the int8 student on test"
        plots[title] = _svg(lambda axes: _confusion(axes[0], counts, classes), height=4.5)
    return plots


def render(record: Mapping[str, Any], plots: Mapping[str, str]) -> str:
    """The page's HTML, from the record and the plots."""
    environment = Environment(
        loader=PackageLoader("edgedistill", "."), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    template = environment.get_template("report.html.jinja")
    # Our own plots, their labels escaped by matplotlib.
    drawn = {title: Markup(svg) for title, svg in plots.items()}
    return template.render(record=record, models=MODELS, names=_NAMES, plots=drawn)


def _svg(draw: Callable[[Sequence[Any]], None], *, columns: int = 1, height: float = 3.2) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure  # slow to import, and only a report needs it

    # The same numbers give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "edgedistill", "font.size": 9, "axes.spines.top": False}):
        figure = Figure(figsize=(4.2 * columns if columns > 1 else 6.4, height), layout="constrained")
        draw(np.atleast_1d(figure.subplots(1, columns)).tolist())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _curves(axes: Sequence[Any], student: Sequence[Mapping[str, Any]], vanilla: Sequence[Mapping[str, Any]]) -> None:
    for axis, (key, title) in zip(
        axes, (("loss", "training loss"), ("top1", "top-1"), ("agreement", "agreement with the teacher")), strict=True
    ):
        for history, name, colour in ((student, "student", "#0b7285"), (vanilla, "vanilla", "#c2410c")):
            points = [(h["epoch"] + 1, h[key]) for h in history if h[key] is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=name, color=colour, marker="o", markersize=3)
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.25)
        if key == "loss":
            axis.set_yscale("log")
            axis.legend(frameon=False)


def _soft_targets(axis: Any, logits: Any) -> None:
    """Mean probability of the teacher's first, second, ... choice at several temperatures."""
    ranks = min(10, logits.shape[1])
    for i, temperature in enumerate(TEMPERATURES):
        mean = np.sort(softmax(logits, temperature), axis=1)[:, ::-1].mean(axis=0)[:ranks]
        axis.bar(np.arange(1, ranks + 1) + 0.2 * (i - 1.5), mean, 0.2, label=f"T = {temperature}")
    axis.set_yscale("log")
    axis.set_xlabel("rank of the class")
    axis.set_ylabel("mean probability")
    axis.legend(frameon=False)


def _confusion(axis: Any, counts: Any, classes: Sequence[str]) -> None:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="BuGn", vmin=0, vmax=1)
    axis.set_xticks(range(len(classes)), classes)
    axis.set_yticks(range(len(classes)), classes)
    axis.set_xlabel("answer")
    axis.set_ylabel("truth")
    if len(classes) <= 20:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                axis.text(
                    j, i, str(count), ha="center", va="center", fontsize=7, color="w" if share[i, j] > 0.5 else "k"
                )
