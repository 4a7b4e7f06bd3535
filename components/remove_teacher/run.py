"""End the teacher's server: after scoring, and again when the run ends however it ends."""

from components.deploy_teacher.run import socket_of
from edgedistill.progress import Progress
from edgedistill.steps import Manifest


def run(*, host: str, progress: Progress) -> Manifest:
    """Stop the server at `local:SOCKET`; one that never ran is fine.

    Raises:
        ConfigError: an unknown host.
        TeacherError: the submitter is gone.
    """
    from serving.host import ask_host

    ask_host(socket_of(host), {"action": "stop"})
    return Manifest("remove_teacher", "", {})
