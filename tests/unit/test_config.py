"""Settings from presets, overrides and numbers that Kubeflow made floats of."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from edgedistill.config import PRESETS, DistillConfig, TeacherConfig, load, run_config, with_names
from edgedistill.errors import ConfigError


def _floats(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_settings_survive_kubeflows_floats(preset: str, own: bool) -> None:
    settings = run_config(preset, own_data=own).distill
    through = json.loads(json.dumps({name: _floats(value) for name, value in asdict(settings).items()}))
    assert load(DistillConfig, through) == settings
    assert load(TeacherConfig, json.loads(json.dumps(asdict(TeacherConfig())))) == TeacherConfig()


def test_overrides() -> None:
    config = run_config("cpu", ["distill.temperature=2", "ingest.name=shop", "teacher.mean=0.1,0.2,0.3"])
    assert (config.distill.temperature, config.ingest.name) == (2.0, "shop")
    assert config.teacher.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distill.temp=2", "unknown setting 'temp'"),
        ("distil.temperature=2", "no step.field=value"),
        ("temperature=2", "no step.field=value"),
        ("distill.epochs=2.5", "no int"),
        ("distill.lr=fast", "no float"),
        ("quantize.last_rung=int4", "expected one of ptq, ptq_full_bias_correction, qad"),
    ],
)
def test_a_wrong_override_is_one_sentence(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_config("cpu", [override])
    with pytest.raises(ConfigError, match="unknown preset"):
        run_config("huge")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("photos/", "photos"),
        ("/srv/My Farm.tar.gz", "my-farm"),
        ("torchvision:Caltech256@/data", "caltech256"),
        ("~/../日本/", "own"),
    ],
)
def test_releases_are_named_after_the_images(data: str, name: str) -> None:
    config = with_names(run_config("cpu", own_data=True), data)
    assert (config.ingest.name, config.teacher.name) == (name, f"{name}-teacher")
    said = ["ingest.name=shop", "teacher.name=big"]
    config = with_names(run_config("cpu", said, own_data=True), data, overrides=said)
    assert (config.ingest.name, config.teacher.name) == ("shop", "big")
