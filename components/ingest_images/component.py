"""Images in, a revision of a data set out."""

from kfp import dsl
from kfp.dsl import Dataset, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def ingest_images(store: str, data: str, config: dict, images: Output[Dataset]) -> None:
    """Ingest images, in any of the forms of docs/data.md; the settings are an IngestConfig."""
    from components.ingest_images.run import run
    from edgedistill.steps import execute

    execute(images, run, store=store, data=data, config=config)
