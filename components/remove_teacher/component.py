"""End the teacher's server."""

from kfp import dsl
from kfp.dsl import Artifact, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def remove_teacher(host: str, removed: Output[Artifact]) -> None:
    """End the teacher's server; one that never ran is fine."""
    from components.remove_teacher.run import run
    from edgedistill.steps import execute

    execute(removed, run, host=host)
