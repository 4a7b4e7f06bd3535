"""The image that every component runs in; its one home."""

from edgedistill import __version__

# "python" in the name: kfp's local runner wants it to see that the image holds Python.
PIPELINE_IMAGE = f"edgedistill/python-pipeline:{__version__}"
