"""Teachers of torchvision and timm: built by name, filled from a weights file or the library's own, exported to ONNX.

Torch is imported when one is built, never before: a step that finds its work done does not pay for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.errors import TeacherError
from edgedistill.storage import file_digest

if TYPE_CHECKING:
    from torch import Tensor, nn

LIBRARIES = ("timm", "torchvision")
_NESTED = ("state_dict", "model_state_dict", "model")  # where a training script puts the weights in its checkpoint
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, and of torch.compile
_AUXILIARY = ("aux", "AuxLogits")  # heads that only training uses


@dataclass(frozen=True)
class LibraryTeacher:
    """`LIBRARY:NAME[@FILE]`."""

    library: str  # one of LIBRARIES
    name: str
    weights: Path | None  # None: the library's own

    @property
    def digest(self) -> str:
        """Of the weights file; of nothing for the library's own, which the name and the library's version tell."""
        return file_digest(self.weights) if self.weights else "pretrained"


@dataclass(frozen=True)
class Exported:
    """A library's net as ONNX, with what the library knows about it."""

    model: bytes  # float NCHW -> logits
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...]  # of its classes; empty when unknown
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Known:
    """What a library says about a net's input."""

    size: int  # pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float  # the share of the side that its makers measured with


def parse_library(text: str) -> LibraryTeacher | None:
    """A library's teacher; None when the text is a path or anything else.

    Raises:
        TeacherError: no such weights file.
    """
    library, colon, rest = text.partition(":")
    if library not in LIBRARIES or not colon:
        return None
    name, _, file = rest.partition("@")
    weights = Path(file).resolve() if file else None
    if weights and not weights.is_file():
        raise TeacherError(
            f"no weights file at {file!r}; give one, --teacher {library}:{name}@FILE, or leave @FILE out"
        )
    return LibraryTeacher(library, name, weights)


def export(teacher: LibraryTeacher, *, size: int = 0) -> Exported:
    """Build, fill and export a library's net.

    Args:
        teacher: which one.
        size: pixels; 0: the library's own.

    Raises:
        TeacherError: no such net, weights that do not fit it or cannot be had, or a net that cannot be exported.
    """
    from serving.onnx_export import to_onnx

    _check_name(teacher)
    known = _known(teacher)
    options = _options(teacher, size, known)
    net, count = _filled(teacher, options) if teacher.weights else _pretrained(teacher, options)
    try:
        model = to_onnx(net, size or known.size)
    except Exception as error:  # the exporter raises kinds of its own
        raise TeacherError(
            f"{_shown(teacher)} cannot be exported to ONNX at {size or known.size} px ({_reason(error)}); export it "
            "yourself and give --teacher FILE.onnx"
        ) from error
    notes = []
    if known.crop < 1:
        notes.append(
            f"{_shown(teacher)} was measured by its makers on the central {known.crop:.1%} of a picture; here it sees "
            f"the whole view, as the student does (--set teacher.crop={known.crop:g} cuts it)"
        )
    return Exported(model, known.mean, known.std, _names(teacher, count), tuple(notes))


def _check_name(teacher: LibraryTeacher) -> None:
    if teacher.library == "timm":
        import timm

        exists = timm.is_model(teacher.name.partition(".")[0])
        where = "python -c 'import timm; print(timm.list_models())'"
    else:
        from torchvision import models

        exists = teacher.name in models.list_models(module=models)
        where = "python -c 'from torchvision import models; print(models.list_models(module=models))'"
    if not exists:
        raise TeacherError(f"{teacher.library} has no image classifier {teacher.name!r}; see: {where}")


def _known(teacher: LibraryTeacher) -> _Known:
    if teacher.library == "timm":
        import timm

        config = timm.get_pretrained_cfg(teacher.name)
        return _Known(config.input_size[-1], tuple(config.mean), tuple(config.std), float(config.crop_pct))
    from torchvision.models import get_model_weights

    transforms = get_model_weights(teacher.name).DEFAULT.transforms()
    size, before = transforms.crop_size[0], transforms.resize_size[0]
    return _Known(size, tuple(transforms.mean), tuple(transforms.std), size / before)


def _options(teacher: LibraryTeacher, size: int, known: _Known) -> dict[str, Any]:
    """What the constructor must be told beside the classes."""
    if teacher.library == "timm":
        import timm

        fixed = timm.get_pretrained_cfg(teacher.name).fixed_input_size
        return {"img_size": size} if fixed and size and size != known.size else {}
    if teacher.name.startswith("vit_") and size and size != known.size:
        return {"image_size": size}
    return {"init_weights": False} if teacher.name in ("googlenet", "inception_v3") else {}


def _build(teacher: LibraryTeacher, options: Mapping[str, Any], **more: Any) -> "nn.Module":
    try:
        if teacher.library == "timm":
            import timm

            net: nn.Module = timm.create_model(teacher.name, **options, **more)
        else:
            from torchvision.models import get_model

            net = get_model(teacher.name, **options, **more)
    except (TypeError, ValueError, AssertionError) as error:
        raise TeacherError(
            f"{_shown(teacher)} cannot be built so ({_reason(error)}); leave teacher.size out"
        ) from error
    return net


def _filled(teacher: LibraryTeacher, options: Mapping[str, Any]) -> tuple["nn.Module", int]:
    """The net with the file's weights, and its classes, counted in the file's last layer."""
    state = _read_weights(teacher)
    count = _classes(teacher, options, state)
    net = _build(teacher, options, num_classes=count)
    own = net.state_dict()
    other = [name for name in own if name in state and own[name].shape != state[name].shape]
    missing = [name for name in own if name not in state and not name.startswith(_AUXILIARY)]
    extra = [name for name in state if name not in own and not name.startswith(_AUXILIARY)]
    if other or missing or extra:
        name, what = (
            (other[0], "has another shape")
            if other
            else (missing[0], "is missing")
            if missing
            else (extra[0], "is not in the net")
        )
        raise TeacherError(
            f"the weights in {str(teacher.weights)!r} are not {_shown(teacher)}'s: {name} {what} "
            f"({len(other) + len(missing) + len(extra)} of {len(own)} differ); name the net that they were saved from"
        )
    net.load_state_dict(state, strict=False)
    return net.eval(), count


def _read_weights(teacher: LibraryTeacher) -> dict[str, "Tensor"]:
    assert teacher.weights is not None
    import torch

    try:
        if teacher.weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(teacher.weights)
        else:
            state = torch.load(teacher.weights, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, safetensors and torch raise kinds of their own
        more = "; save it with torch.save(net.state_dict(), FILE)" if type(error).__name__ == "UnpicklingError" else ""
        raise TeacherError(f"{str(teacher.weights)!r} is no file of tensors alone ({_reason(error)}){more}") from error
    while isinstance(state, dict) and (key := next((k for k in _NESTED if isinstance(state.get(k), dict)), None)):
        state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise TeacherError(
            f"{str(teacher.weights)!r} holds no state dict; save it with torch.save(net.state_dict(), FILE)"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def _classes(teacher: LibraryTeacher, options: Mapping[str, Any], state: Mapping[str, "Tensor"]) -> int:
    """Of the file: the head is what changes its shape with the number of classes."""
    import torch

    with torch.device("meta"):
        two, three = (_build(teacher, options, num_classes=count).state_dict() for count in (2, 3))
    heads = [name for name in two if two[name].shape != three[name].shape and name in state]
    if not heads:
        raise TeacherError(
            f"the weights in {str(teacher.weights)!r} have no last layer of {_shown(teacher)}; name the net that they "
            "were saved from"
        )
    return int(state[heads[-1]].shape[0])


def _pretrained(teacher: LibraryTeacher, options: Mapping[str, Any]) -> tuple["nn.Module", int]:
    try:
        if teacher.library == "timm":
            net = _build(teacher, options, pretrained=True)
            return net.eval(), int(net.num_classes)  # type: ignore[arg-type]
        from torchvision.models import get_model_weights

        weights = get_model_weights(teacher.name).DEFAULT
        net = _build(
            teacher, {k: v for k, v in options.items() if k != "init_weights"}, weights=weights, progress=False
        )
        return net.eval(), len(weights.meta["categories"])
    except TeacherError:
        raise
    except Exception as error:  # sockets, HTTP and hub errors of several libraries
        raise TeacherError(
            f"the weights of {_shown(teacher)} cannot be downloaded ({_reason(error)}); give a file of them, "
            f"--teacher {_shown(teacher)}@FILE"
        ) from error


def _names(teacher: LibraryTeacher, count: int) -> tuple[str, ...]:
    """ImageNet's names when the net has its 1,000 classes."""
    if count != 1000:
        return ()
    if teacher.library == "timm":
        from timm.data import ImageNetInfo

        names = tuple(ImageNetInfo().index_to_description(i) for i in range(count))
    else:
        from torchvision.models import get_model_weights

        names = tuple(get_model_weights(teacher.name).DEFAULT.meta["categories"])
    return names if len(set(names)) == count else tuple(_distinct(names))


def _distinct(names: tuple[str, ...]) -> list[str]:
    """ImageNet has two cranes and two maillots: the second gets its number."""
    return [name if names.index(name) == i else f"{name} ({i})" for i, name in enumerate(names)]


def _shown(teacher: LibraryTeacher) -> str:
    return f"{teacher.library}:{teacher.name}"


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
