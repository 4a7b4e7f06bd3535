"""The student as OpenVINO fp32 and int8."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def quantize_student(
    store: str,
    images: Input[Dataset],
    scores: Input[Dataset],
    student: Input[Model],
    config: dict,
    distill: dict,
    scoring: dict,
    models: Output[Model],
) -> None:
    """Quantise; the settings are a QuantizeConfig, `distill` and `scoring` those of the student's training."""
    from components.quantize_student.run import run
    from edgedistill.steps import execute

    inputs = {"images": images, "scores": scores, "student": student}
    execute(models, run, store=store, **inputs, config=config, distill=distill, scoring=scoring)
