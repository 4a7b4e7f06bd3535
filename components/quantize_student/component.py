"""The student as OpenVINO fp32 and int8."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def quantize_student(
    store: str,
    images: Input[Dataset],
    student: Input[Model],
    config: dict,
    models: Output[Model],
) -> None:
    """Convert and quantise; the settings are a QuantizeConfig."""
    from components.quantize_student.run import run
    from edgedistill.steps import execute

    execute(models, run, store=store, images=images, student=student, config=config)
