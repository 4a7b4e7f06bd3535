"""From images and a teacher to a signed int8 release. Read it as a list of steps."""

from kfp import dsl

from components.deploy_teacher.component import deploy_teacher
from components.distill_student.component import distill_student
from components.evaluate_student.component import evaluate_student
from components.ingest_images.component import ingest_images
from components.plan_scoring.component import plan_scoring
from components.publish_release.component import publish_release
from components.publish_teacher.component import publish_teacher
from components.quantize_student.component import quantize_student
from components.remove_teacher.component import remove_teacher
from components.report_run.component import report_run
from components.score_teacher.component import score_teacher


def _uncached(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Kubeflow's cache is off: its key is image, command and artifact ids, ours is what a step really reads."""
    return task.set_caching_options(False)


@dsl.pipeline(name="edgedistill-distillation", description="Images and a teacher in, a signed int8 student out")
def distillation(
    store: str,
    data: str,
    teacher: str,
    host: str,
    keys: str,
    run_id: str,
    started: str,
    target: str,
    labels_used: int,
    config: dict,
    ingest: dict,
    teaching: dict,
    score: dict,
    distill: dict,
    quantize: dict,
) -> None:
    """`config` is the whole RunConfig; the five after it are its sections, one a step."""
    with dsl.ExitHandler(_uncached(remove_teacher(host=host))):
        images = _uncached(ingest_images(store=store, data=data, config=ingest)).output
        published = _uncached(publish_teacher(store=store, images=images, teacher=teacher, config=teaching)).output
        plan = _uncached(plan_scoring(store=store, images=images, teacher=published, config=score)).output
        endpoint = _uncached(deploy_teacher(store=store, teacher=published, plan=plan, host=host)).output
        scored = score_teacher(
            store=store, images=images, teacher=published, plan=plan, endpoint=endpoint, config=score
        )
        scores = _uncached(scored).output
        _uncached(remove_teacher(host=host)).after(scored)
        training = {"store": store, "images": images, "teacher": published, "scores": scores}
        training |= {"config": distill, "scoring": score}
        student = _uncached(distill_student(mode="student", **training)).output
        vanilla = _uncached(distill_student(mode="vanilla", **training)).output
        quantized = quantize_student(
            store=store,
            images=images,
            scores=scores,
            student=student,
            config=quantize,
            distill=distill,
            scoring=score,
        )
        models = _uncached(quantized).output
        evaluation = _uncached(
            evaluate_student(
                store=store,
                images=images,
                teacher=published,
                scores=scores,
                student=student,
                vanilla=vanilla,
                models=models,
            )
        ).output
        release = _uncached(
            publish_release(
                store=store,
                keys=keys,
                config=config,
                images=images,
                teacher=published,
                scores=scores,
                student=student,
                models=models,
                evaluation=evaluation,
            )
        ).output
        _uncached(
            report_run(
                store=store,
                run_id=run_id,
                started=started,
                target=target,
                config=config,
                labels_used=labels_used,
                ingest_images=images,
                publish_teacher=published,
                plan_scoring=plan,
                deploy_teacher=endpoint,
                score_teacher=scores,
                distill_student=student,
                distill_vanilla=vanilla,
                quantize_student=models,
                evaluate_student=evaluation,
                publish_release=release,
            )
        )
