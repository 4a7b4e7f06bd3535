"""Every error can be printed, and caught by its root."""

import pytest

from edgedistill import errors


@pytest.mark.parametrize("name", [n for n, value in vars(errors).items() if isinstance(value, type)])
def test_each_error_says_what_it_was_given(name: str) -> None:
    kind = getattr(errors, name)
    with_reason = kind in (errors.RefusedRelease, errors.RefusedImage)
    error = kind("slug", "a sentence") if with_reason else kind("a sentence")
    assert str(error) == "a sentence"
    assert isinstance(error, errors.EdgeDistillError)
