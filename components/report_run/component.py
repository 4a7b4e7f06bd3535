"""The run's record and report, and what Kubeflow's UI shows of them."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from components.image import PIPELINE_IMAGE


@dsl.component(base_image=PIPELINE_IMAGE, packages_to_install=[], install_kfp_package=False)
def report_run(
    store: str,
    run_id: str,
    started: str,
    target: str,
    config: dict,
    labels_used: int,
    ingest_images: Input[Dataset],
    publish_teacher: Input[Model],
    plan_scoring: Input[Artifact],
    deploy_teacher: Input[Artifact],
    score_teacher: Input[Dataset],
    distill_student: Input[Model],
    distill_vanilla: Input[Model],
    quantize_student: Input[Model],
    evaluate_student: Input[Artifact],
    publish_release: Input[Model],
    record: Output[Artifact],
    metrics: Output[Metrics],
    confusion: Output[ClassificationMetrics],
    report: Output[HTML],
) -> None:
    """Write the record and the report; fail when a gate was missed."""
    from components.report_run.run import run
    from components.report_run.shown import show
    from edgedistill.steps import execute

    execute(
        record,
        run,
        store=store,
        run_id=run_id,
        started=started,
        target=target,
        config=config,
        labels_used=labels_used,
        ingest_images=ingest_images,
        publish_teacher=publish_teacher,
        plan_scoring=plan_scoring,
        deploy_teacher=deploy_teacher,
        score_teacher=score_teacher,
        distill_student=distill_student,
        distill_vanilla=distill_vanilla,
        quantize_student=quantize_student,
        evaluate_student=evaluate_student,
        publish_release=publish_release,
    )
    show(store, record, metrics=metrics, confusion=confusion, report=report)
