"""Serve the teacher, where there is something to score."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def deploy_teacher(
    store: str,
    teacher: Input[Model],
    plan: Input[Artifact],
    host: str,
    endpoint: Output[Artifact],
) -> None:
    """Start the teacher's server and wait until it answers."""
    from components.deploy_teacher.run import run
    from edgedistill.steps import execute

    execute(endpoint, run, store=store, teacher=teacher, plan=plan, host=host)
