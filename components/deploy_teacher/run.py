"""Serve the teacher, where there is something to score: on loopback for an embedded run."""

from edgedistill.errors import ConfigError
from edgedistill.progress import Progress
from edgedistill.steps import Manifest

LOCAL = "local:"  # prefix of an embedded run's teacher host: the path of its socket


def run(*, store: str, teacher: Manifest, plan: Manifest, host: str, progress: Progress) -> Manifest:
    """Start the teacher's server and wait until it answers.

    Args:
        store: address of the object store.
        teacher: what publish_teacher made.
        plan: what plan_scoring made; with nothing missing no server is started.
        host: `local:SOCKET`.
        progress: unused.

    Returns:
        outputs: url (host:port of gRPC, or empty) and server (its name and version).

    Raises:
        TeacherError: the server does not become ready.
        ConfigError: an unknown host.
    """
    if not plan.outputs["missing"]:
        return Manifest("deploy_teacher", "", {"url": "", "server": "none: every score was known"}, cached=True)
    from serving.host import ask_host

    wanted = {name: teacher.outputs[name] for name in ("name", "model", "size", "classes")}
    answer = ask_host(socket_of(host), {"action": "start", "store": store} | wanted)
    return Manifest("deploy_teacher", "", answer)


def socket_of(host: str) -> str:
    """The socket's path in `local:SOCKET`. Raises ConfigError for anything else."""
    if not host.startswith(LOCAL):
        raise ConfigError(f"unknown teacher host {host!r}; expected {LOCAL}SOCKET, as `edgedistill run` gives it")
    return host.removeprefix(LOCAL)
