"""Every error that EdgeDistill raises on purpose.

    EdgeDistillError              one sentence: the bad value, what was expected, the next command
    ├── ConfigError               a setting or a command-line value
    ├── DatasetError              the user's images, labels or revisions
    │   └── RefusedImage          one file that is no usable picture; `.reason` is a short slug
    ├── TeacherError              the teacher's model, its repository or its server
    ├── StorageError              the object store
    │   └── SwapConflict          a HEAD file moved under a compare-and-swap
    ├── CollectError              a collection of garbage while a run goes on
    ├── TrainingError             distillation, a diverging loss
    ├── GateError                 a measured value missed its limit; nothing is published
    ├── SigningError              keys, TUF roles, publishing
    ├── RefusedRelease            a release that a node must not run; `.reason` is a short slug
    ├── NodeError                 the edge node's own state or settings
    └── RolloutError              the fleet, the chart's target, the controller

A caller that wants one `except` catches the root. Third-party errors are wrapped once, where they enter.
"""


class EdgeDistillError(Exception):
    """Root of the tree; `str(error)` is fit for the last line of a terminal."""


class ConfigError(EdgeDistillError):
    """A setting that cannot be used as given."""


class DatasetError(EdgeDistillError):
    """The images or labels cannot make a data set."""


class RefusedImage(DatasetError):  # noqa: N818 - the noun of the reject list
    """One file that cannot be used; the others can. `reason` is its kind, which the reject list counts."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TeacherError(EdgeDistillError):
    """The teacher is no usable classifier, or its server does not answer as it must."""


class StorageError(EdgeDistillError):
    """The object store refused, lost or changed something."""


class SwapConflict(StorageError):  # noqa: N818 - what happened, not what failed
    """A HEAD file was not what the caller last read; read it again and retry."""


class CollectError(EdgeDistillError):
    """Nothing can be removed now, or no more; try again when the run has ended."""


class TrainingError(EdgeDistillError):
    """Training cannot go on."""


class GateError(EdgeDistillError):
    """A gate was missed; the run ends and publishes nothing."""


class SigningError(EdgeDistillError):
    """A key or a TUF role is missing, wrong or not allowed."""


class RefusedRelease(EdgeDistillError):  # noqa: N818 - the noun the status page shows
    """A release that must not be served. `reason` is a slug from `edge.node` that tests and metrics use."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NodeError(EdgeDistillError):
    """The node cannot start or go on with its state folder or settings."""


class RolloutError(EdgeDistillError):
    """The rollout's target or the cluster's answer makes no sense."""
