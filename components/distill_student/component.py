"""Train the student, or its vanilla twin."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def distill_student(
    store: str,
    mode: str,
    images: Input[Dataset],
    teacher: Input[Model],
    scores: Input[Dataset],
    config: dict,
    scoring: dict,
    student: Output[Model],
) -> None:
    """Train; the settings are a DistillConfig, `scoring` the ScoreConfig of the scores."""
    from components.distill_student.run import run
    from edgedistill.steps import execute

    execute(
        student,
        run,
        store=store,
        mode=mode,
        images=images,
        teacher=teacher,
        scores=scores,
        config=config,
        scoring=scoring,
    )
