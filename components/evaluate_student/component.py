"""The final table."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def evaluate_student(
    store: str,
    images: Input[Dataset],
    teacher: Input[Model],
    scores: Input[Dataset],
    student: Input[Model],
    vanilla: Input[Model],
    models: Input[Model],
    evaluation: Output[Artifact],
) -> None:
    """Measure teacher, vanilla, fp32 and int8 on the test split."""
    from components.evaluate_student.run import run
    from edgedistill.steps import execute

    execute(
        evaluation,
        run,
        store=store,
        images=images,
        teacher=teacher,
        scores=scores,
        student=student,
        vanilla=vanilla,
        models=models,
    )
