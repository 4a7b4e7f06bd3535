"""The teacher's logits of every view of every image."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def score_teacher(
    store: str,
    images: Input[Dataset],
    teacher: Input[Model],
    plan: Input[Artifact],
    endpoint: Input[Artifact],
    config: dict,
    scores: Output[Dataset],
) -> None:
    """Score what is missing; the settings are a ScoreConfig."""
    from components.score_teacher.run import run
    from edgedistill.steps import execute

    execute(scores, run, store=store, images=images, teacher=teacher, plan=plan, endpoint=endpoint, config=config)
