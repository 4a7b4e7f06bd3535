"""One self-contained page about one run: inline SVG, inline pictures, no script, nothing fetched."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from edgedistill.answers import Answers, read_answers
from edgedistill.charts import Series, columns, lines, matrix
from edgedistill.metrics import MODELS, softmax
from edgedistill.report_pictures import thumbnail
from edgedistill.runs import percent, size
from edgedistill.steps import Manifest
from edgedistill.storage import ObjectStore

NAMES = {
    "teacher": "teacher",
    "vanilla": "vanilla twin",
    "student_fp32": "student fp32",
    "student_int8": "student int8",
}
AUTOESCAPE = True
RANKS = 10  # of the teacher's choices, drawn
READABLE = 24  # classes at most in a drawn confusion matrix
PAIRS = 12  # confused pairs, and disagreements, shown with a picture
FILES = 20  # refused files named for each reason


def build_page(store: ObjectStore, record: Mapping[str, Any], steps: Mapping[str, Manifest]) -> str:
    """The page's HTML.

    Args:
        store: the pictures and the answers are read from it.
        record: from `edgedistill.runs.build_record`.
        steps: the manifests of the run, by step.
    """
    answers = read_answers(store, steps["evaluate_student"].outputs["answers"])
    labels = _Labels(record["labels"])
    temperature = float(record["config"]["distill"]["temperature"])
    return render(
        record,
        curves=_curves(steps["distill_student"].outputs["history"], steps["distill_vanilla"].outputs.get("history")),
        soft_targets=_soft_targets(answers.teacher_logits, temperature),
        softened=_softened(store, answers, labels, temperature),
        against=_against(store, answers, labels),
        confusion=_confusion(steps["evaluate_student"].outputs["confusion"], labels),
        pairs=_pairs(store, answers, labels),
        disagreements=_disagreements(store, answers, labels, ("student_fp32", "student_int8")),
        rejects=_rejects(store, steps["ingest_images"].outputs),
    )


def render(record: Mapping[str, Any], **sections: Any) -> str:
    """The template filled; SVG text is ours and escaped in edgedistill.charts, everything else is escaped here."""
    # Not select_autoescape: it goes by the end of a template's name, and `.jinja` is none of its endings.
    environment = Environment(
        loader=PackageLoader("edgedistill", "."), autoescape=AUTOESCAPE, undefined=StrictUndefined
    )
    environment.filters |= {"percent": percent, "size": size}
    measured = {name: record["metrics"][name] for name in MODELS if record["metrics"][name]}
    template = environment.get_template("report.html.jinja")
    scale = {
        "largest": max(values["size_bytes"] for values in measured.values()),
        "slowest": max(values["latency_ms_p50"] or 0 for values in measured.values()) or 1,
    }
    return template.render(record=record, names=NAMES, measured=measured, **scale, **sections)


class _Labels:
    """Class numbers to names; a number without a name is shown as itself."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __getitem__(self, number: int) -> str:
        return self.names[number] if 0 <= number < len(self.names) else f"class {number}"


def _curves(student: Sequence[Mapping[str, Any]], vanilla: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Loss, top-1, top-5 and agreement over the epochs."""
    charts: list[dict[str, Any]] = []
    kinds: tuple[tuple[str, str, Callable[[float], str], bool], ...] = (
        ("loss", "training loss", "{:g}".format, True),
        ("top1", "top-1", "{:.0%}".format, False),
        ("top5", "top-5", "{:.0%}".format, False),
        ("agreement", "agreement with the teacher", "{:.0%}".format, False),
    )
    for key, title, show, log in kinds:
        series = [
            Series(name, colour, [(h["epoch"] + 1, h[key]) for h in history or [] if h.get(key) is not None])
            for name, colour, history in (("student", 0, student), ("vanilla twin", 1, vanilla))
        ]
        drawn = lines(title, series, x_title="epoch", show=show, log=log, top=None if log else 1.0)
        if drawn:
            charts.append({"title": title, "svg": Markup(drawn)})
    return charts


def _soft_targets(logits: NDArray[np.float32], temperature: float) -> dict[str, Any]:
    """Mean probability of the teacher's first, second, ... choice at several temperatures."""
    temperatures = sorted({1.0, 2.0, 4.0, 8.0, temperature})[:6]
    ranks = min(RANKS, logits.shape[1])
    series = []
    for one in temperatures:
        ordered = np.sort(softmax(logits, one), axis=1)[:, ::-1]
        series.append((f"T = {one:g}", [float(value) for value in ordered.mean(axis=0)[:ranks]]))
    groups = [str(rank + 1) for rank in range(ranks)]
    svg = columns("Mean probability by rank", groups, series, x_title="the teacher's choices, the likeliest first")
    return {"svg": Markup(svg), "names": [name for name, _ in series], "images": len(logits), "used": temperature}


def _softened(store: ObjectStore, answers: Answers, labels: _Labels, temperature: float) -> tuple[dict[str, Any], ...]:
    """The teacher's surest, an ordinary and its most doubtful picture, with their soft targets at two temperatures."""
    logits = answers.teacher_logits
    probabilities = softmax(logits)
    doubt = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)
    order = np.argsort(doubt, kind="stable")
    chosen = dict.fromkeys(int(order[round(share * (len(order) - 1))]) for share in (0.0, 0.5, 1.0))
    shown = (1.0, temperature if temperature != 1 else 4.0)
    cards = []
    for i in chosen:
        top = np.argsort(-logits[i], kind="stable")[:6]
        at = {f"T = {one:g}": softmax(logits[i : i + 1], one)[0, top] for one in shown}
        rows = [{"name": labels[int(k)], "shares": [float(at[t][n]) for t in at]} for n, k in enumerate(top)]
        cards.append(_picture(store, answers, i, labels) | {"temperatures": list(at), "rows": rows})
    return tuple(cards)


def _against(store: ObjectStore, answers: Answers, labels: _Labels) -> dict[str, Any] | None:
    """Vanilla twin against student on the test images with a known truth; None where either is missing."""
    if "vanilla" not in answers.said or not answers.known.any():
        return None
    student = answers.said["student_int8"] == answers.truth
    vanilla = answers.said["vanilla"] == answers.truth
    gained = np.flatnonzero(answers.known & student & ~vanilla)
    gained = gained[np.argsort(-answers.sure["vanilla"][gained], kind="stable")]  # the vanilla twin's surest mistakes
    return {
        "both": int((student & vanilla).sum()),
        "student": len(gained),
        "vanilla": int((~student & vanilla).sum()),
        "neither": int((answers.known & ~student & ~vanilla).sum()),
        "pictures": [_picture(store, answers, int(i), labels) for i in gained[:6]],
    }


def _confusion(counts: Sequence[Sequence[int]] | None, labels: _Labels) -> Markup | None:
    if not counts or len(counts) > READABLE:
        return None
    return Markup(matrix("Confusion of the int8 student", counts, [labels[i] for i in range(len(counts))]))


def _pairs(store: ObjectStore, answers: Answers, labels: _Labels) -> dict[str, Any] | None:
    """The worst confusions of the int8 student, each with the picture that it was surest about; None without truth."""
    if not answers.known.any():
        return None
    said, truth = answers.said["student_int8"], answers.truth
    wrong = np.flatnonzero(answers.known & (said != truth))
    counts = Counter((int(truth[i]), int(said[i])) for i in wrong)
    rows = []
    for (true, answer), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:PAIRS]:
        members = wrong[(truth[wrong] == true) & (said[wrong] == answer)]
        surest = int(members[np.argmax(answers.sure["student_int8"][members])])
        shared = int((answers.said["teacher"][members] == answer).sum())
        rows.append({"count": count, "shared": shared, **_picture(store, answers, surest, labels)})
    return {"wrong": len(wrong), "known": int(answers.known.sum()), "kinds": len(counts), "rows": rows}


def _disagreements(store: ObjectStore, answers: Answers, labels: _Labels, models: tuple[str, str]) -> dict[str, Any]:
    """Test images about which two models differ, the second one's surest first."""
    before, after = (answers.said[name] for name in models)
    differ = np.flatnonzero(before != after)
    differ = differ[np.argsort(-answers.sure[models[1]][differ], kind="stable")]
    pictures = [_picture(store, answers, int(i), labels) for i in differ[:PAIRS]]
    return {"count": len(differ), "images": len(answers), "pictures": pictures}


def _picture(store: ObjectStore, answers: Answers, i: int, labels: _Labels) -> dict[str, Any]:
    """One test image, its truth, and what every model says of it."""
    truth = int(answers.truth[i])
    opinions = [
        {"name": labels[int(k)], "share": float(p)}
        for k, p in zip(answers.teacher_top[i][:2], answers.teacher_top_p[i][:2], strict=True)
    ]
    said = {
        name: {"name": labels[int(answers.said[name][i])], "share": float(answers.sure[name][i])}
        for name in MODELS
        if name in answers.said
    }
    return {
        "source": answers.sources[i],
        "address": thumbnail(store, answers.keys[i]),
        "truth": labels[truth] if truth >= 0 else None,
        "said": said,
        "teacher": opinions,
    }


def _rejects(store: ObjectStore, images: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Refused files by reason, the commonest reason first."""
    if not images["rejects"]:
        return []
    files: dict[str, list[str]] = {}
    for line in store.get(images["rejects"]).decode().splitlines():
        one = json.loads(line)
        files.setdefault(str(one.get("kind") or one["reason"]), []).append(str(one["file"]))
    ordered = sorted(files.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"reason": reason, "count": len(found), "files": sorted(found)[:FILES]} for reason, found in ordered[:FILES]
    ]
