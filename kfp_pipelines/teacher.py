"""From labelled images to a teacher of one's own."""

from kfp import dsl

from components.ingest_images.component import ingest_images
from components.train_teacher.component import train_teacher


@dsl.pipeline(name="edgedistill-teacher", description="Labelled images in, an ONNX teacher out")
def teacher(store: str, data: str, policy: str, ingest: dict, train: dict) -> None:
    """`ingest` is an IngestConfig, `train` a TrainTeacherConfig."""
    images = ingest_images(store=store, data=data, config=ingest).set_caching_options(False).output
    train_teacher(store=store, images=images, policy=policy, config=train).set_caching_options(False)
