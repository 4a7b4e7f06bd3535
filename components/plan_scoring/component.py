"""Which score parts are missing."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def plan_scoring(
    store: str,
    images: Input[Dataset],
    teacher: Input[Model],
    config: dict,
    plan: Output[Artifact],
) -> None:
    """List the score parts; the settings are a ScoreConfig."""
    from components.plan_scoring.run import run
    from edgedistill.steps import execute

    execute(plan, run, store=store, images=images, teacher=teacher, config=config)
