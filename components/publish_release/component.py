"""The int8 student as a signed release."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def publish_release(
    store: str,
    keys: str,
    config: dict,
    images: Input[Dataset],
    teacher: Input[Model],
    scores: Input[Dataset],
    student: Input[Model],
    models: Input[Model],
    evaluation: Input[Artifact],
    release: Output[Model],
) -> None:
    """Bundle, sign and publish; the settings are a RunConfig."""
    from components.publish_release.run import run
    from edgedistill.steps import execute

    execute(
        release,
        run,
        store=store,
        keys=keys,
        config=config,
        images=images,
        teacher=teacher,
        scores=scores,
        student=student,
        models=models,
        evaluation=evaluation,
    )
