"""Somebody else's classifier in, a Triton model repository out."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def publish_teacher(
    store: str,
    images: Input[Dataset],
    teacher: str,
    config: dict,
    repository: Output[Model],
) -> None:
    """Check and publish the teacher; the settings are a TeacherConfig."""
    from components.publish_teacher.run import run
    from edgedistill.steps import execute

    execute(repository, run, store=store, images=images, teacher=teacher, config=config)
