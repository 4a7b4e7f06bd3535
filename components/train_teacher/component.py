"""A teacher of one's own, from the labelled part."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def train_teacher(store: str, images: Input[Dataset], policy: str, config: dict, model: Output[Model]) -> None:
    """Train a teacher; the settings are a TrainTeacherConfig."""
    from components.train_teacher.run import run
    from edgedistill.steps import execute

    execute(model, run, store=store, images=images, policy=policy, config=config)
