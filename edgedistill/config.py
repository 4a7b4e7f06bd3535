"""Settings: one frozen dataclass a step, one preset that sets them all, `--set step.field=value` for the rest."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePath
from typing import Any, TypeVar, get_type_hints

from edgedistill.errors import ConfigError

T = TypeVar("T")


# The peak lr of AdamW by the beginning of an architecture's name; docs/students.md says which ones were measured.
LEARNING_RATES = {
    "edge_cnn": 4e-3,
    "wide_cnn": 3e-3,
    "torchvision:squeezenet": 4e-4,
    "torchvision:mobilenet": 4e-3,
    "": 1e-3,
}


def learning_rate(arch: str, lr: float = 0.0) -> float:
    """`lr`, or the architecture's own where it is 0."""
    return lr or next(value for start, value in LEARNING_RATES.items() if arch.startswith(start))


@dataclass(frozen=True)
class IngestConfig:
    name: str = "demo"  # of the data set, and of the releases made from it
    labeled_fraction: float = 0.1  # of the training images; the other labels are kept for measuring only
    train: float = 1 / 2
    validation: float = 1 / 6  # the rest is the test split
    near_duplicates: bool = True  # keep re-saved and resized copies of one picture on one side of the split
    feedback: bool = False  # train on the pictures that the fleet was unsure about, too


@dataclass(frozen=True)
class TeacherConfig:
    name: str = "demo-teacher"
    mean: tuple[float, ...] = ()  # of a float teacher's input, on a 0-1 scale; (): the library's, 0.5 for an ONNX file
    std: tuple[float, ...] = ()  # likewise
    size: int = 0  # pixels; 0: the teacher's own
    crop: float = 1.0  # share of the side that the teacher sees, cut from the middle of a view
    labels: str = ""  # CSV file (or store:KEY) that maps the teacher's classes onto the student's


@dataclass(frozen=True)
class ScoreConfig:
    policy: str = "digits"  # a name in edgedistill.views.POLICIES
    views: int = 12  # random views a training image, beside the centre view
    buckets: int = 0  # score parts, by a hash of the image's id; 0: as many as leave a part some 4,000 views
    batch: int = 32  # images a request
    in_flight: int = 4  # requests under way at once
    deadline_s: float = 30.0  # a try of a request
    patience_s: float = 60.0  # a request with all its tries: a server that restarts may take so long


@dataclass(frozen=True)
class DistillConfig:
    arch: str = "edge_cnn"  # edge_cnn, wide_cnn, torchvision:NAME or timm:NAME
    size: int = 28  # pixels; the student's input is size x size
    epochs: int = 24
    batch: int = 64
    lr: float = 0.0  # the peak; 0: the architecture's own, see LEARNING_RATES
    weight_decay: float = 5e-2
    temperature: float = 4.0
    alpha: float = 0.1  # weight of the labelled images' cross-entropy beside the distillation loss
    seed: int = 0


RUNGS = ("ptq", "ptq_full_bias_correction", "qad")  # the int8 ladder, in the order of climbing


@dataclass(frozen=True)
class QuantizeConfig:
    calibration: int = 300  # training images
    last_rung: str = "qad"  # one of RUNGS: the ladder goes no higher
    qad_epochs: int = 4
    qad_lr_share: float = 1 / 8  # peak learning rate of qad, as a share of distill.lr
    max_lost_share: float = 0.003  # net validation images that int8 may lose against fp32 ...
    max_lost_count: int = 2  # ... or this many, whichever is more
    min_agreement: float = 0.98  # argmax agreement of int8 and fp32 on validation
    enough_agreement: float = 0.995  # a rung that agrees so often ends the ladder; else the best rung is kept
    max_teacher_drop: float = 0.01  # int8's agreement with the teacher may be this much below fp32's, or max_lost_count
    max_size_kb: float = 0.0  # of the int8 model's two files, 1000 bytes each kB; 0: no limit
    max_latency_ms: float = 0.0  # median at batch 1 on the machine of the step; 0: no limit

    def __post_init__(self) -> None:
        if self.last_rung not in RUNGS:
            raise ConfigError(f"quantize.last_rung={self.last_rung!r} is no rung; expected one of {', '.join(RUNGS)}")


@dataclass(frozen=True)
class TrainTeacherConfig:
    arch: str = "wide_cnn"
    size: int = 28
    epochs: int = 8
    batch: int = 64
    lr: float = 0.0  # likewise
    weight_decay: float = 5e-2
    seed: int = 0


@dataclass(frozen=True)
class RunConfig:
    """Everything a run can be told; the record holds it whole."""

    ingest: IngestConfig = field(default_factory=IngestConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    train_teacher: TrainTeacherConfig = field(default_factory=TrainTeacherConfig)


_TINY_GATES = QuantizeConfig(calibration=40, max_lost_count=10, min_agreement=0.5, enough_agreement=0.9)

# tiny: the same code in seconds, for tests; cpu: minutes on two cores; full: as good as it gets. docs/students.md shows
# them in one table. The demo is small grey digits ...
PRESETS = {
    "tiny": RunConfig(
        score=ScoreConfig(views=3, buckets=4),
        distill=DistillConfig(epochs=10, batch=16),
        quantize=_TINY_GATES,
        train_teacher=TrainTeacherConfig(epochs=10, batch=16),
    ),
    "cpu": RunConfig(),
    "full": RunConfig(
        score=ScoreConfig(views=24), distill=DistillConfig(epochs=60), train_teacher=TrainTeacherConfig(epochs=16)
    ),
}
# A few hundred validation images, a net with narrow margins, and a last rung that rightly changes answers.
_PHOTO_GATES = QuantizeConfig(min_agreement=0.95)
# ... and the user's own images are taken for photos.
OWN = {
    "tiny": RunConfig(
        score=ScoreConfig(policy="photos", views=3, buckets=4),
        distill=DistillConfig(size=64, epochs=10, batch=16),
        quantize=_TINY_GATES,
        train_teacher=TrainTeacherConfig(size=64, epochs=10, batch=16),
    ),
    "cpu": RunConfig(
        score=ScoreConfig(policy="photos", views=8),
        distill=DistillConfig(arch="torchvision:mobilenet_v3_small", size=128, epochs=30),
        quantize=_PHOTO_GATES,
        train_teacher=TrainTeacherConfig(size=96, epochs=20),
    ),
    "full": RunConfig(
        score=ScoreConfig(policy="photos", views=24),
        distill=DistillConfig(arch="torchvision:mobilenet_v3_small", size=224, epochs=100),
        quantize=_PHOTO_GATES,
        train_teacher=TrainTeacherConfig(arch="timm:xception41", size=224, epochs=60, batch=32),
    ),
}


def load(kind: type[T], values: Mapping[str, Any]) -> T:
    """A settings dataclass from a mapping that came through JSON: Kubeflow turns every number into a float.

    Raises:
        ConfigError: an unknown field, or a value of the wrong kind.
    """
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"unknown setting {unknown[0]!r} of {kind.__name__}; expected one of {', '.join(hints)}")
    return kind(**{name: _cast(f"{kind.__name__}.{name}", value, hints[name]) for name, value in values.items()})


def run_config(preset: str, overrides: Iterable[str] = (), *, own_data: bool = False) -> RunConfig:
    """The preset, the demo's or the one for the user's own images, with `step.field=value` overrides.

    Raises:
        ConfigError: an unknown preset, step or field, or a value of the wrong kind.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}")
    config = (OWN if own_data else PRESETS)[preset]
    for override in overrides:
        path, separator, text = override.partition("=")
        step, dot, name = path.partition(".")
        steps = {f.name for f in fields(config)}
        if not separator or not dot or step not in steps:
            raise ConfigError(f"--set {override!r} is no step.field=value; the steps are {', '.join(sorted(steps))}")
        section = getattr(config, step)
        config = replace(config, **{step: load(type(section), asdict(section) | {name: text})})
    return config


def with_labels(config: RunConfig, fraction: float | None, *, own: bool, overrides: Iterable[str] = ()) -> RunConfig:
    """The share of the training labels that may be used: as the user says; else all of his own images' labels.

    Raises:
        ConfigError: no share.
    """
    if fraction is None:
        said = any(override.startswith("ingest.labeled_fraction=") for override in overrides)
        if not own or said or config.ingest.labeled_fraction != IngestConfig.labeled_fraction:
            return config
        fraction = 1.0
    if not 0 <= fraction <= 1:
        raise ConfigError(f"--labeled-fraction {fraction} is no share; expected a number from 0 to 1")
    return replace(config, ingest=replace(config.ingest, labeled_fraction=fraction))


def with_names(config: RunConfig, data: str, *, overrides: Iterable[str] = ()) -> RunConfig:
    """Data set, releases and teacher named after the user's images, unless he named them.

    `photos/`, `photos.tar` and `torchvision:Photos@/data` make the releases `photos`: two data sets in one store must
    not be versions of one student.
    """
    named = {override.partition("=")[0] for override in overrides}
    said = data.removeprefix("torchvision:").partition("@")[0] if data.startswith("torchvision:") else data
    last = PurePath(said).name or Path(said).resolve().name  # of "." it is the folder's own
    name = re.sub(r"[^a-z0-9]+", "-", last.lower().partition(".")[0]).strip("-") or "own"
    if "ingest.name" not in named:
        config = replace(config, ingest=replace(config.ingest, name=name))
    if "teacher.name" not in named:
        config = replace(config, teacher=replace(config.teacher, name=f"{config.ingest.name}-teacher"))
    return config


def _cast(name: str, value: Any, kind: Any) -> Any:
    try:
        if kind is int:
            if float(value) != int(float(value)):
                raise ValueError
            return int(float(value))
        if kind is bool:
            return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}[str(value).lower()]
        if kind in (float, str):
            return kind(value)
        parts = filter(None, value.split(",")) if isinstance(value, str) else value
        return tuple(float(part) for part in parts)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{name} = {value!r} is no {getattr(kind, '__name__', 'list of numbers')}") from None
