"""The API server: one request with a time limit, its failure in one sentence."""

import json
from collections.abc import Callable
from typing import Any

import urllib3
from kubernetes import client, config

from edgedistill.errors import RolloutError

TIMEOUT_S = 10.0
PAGE = 250  # objects a request


class ApiError(RolloutError):
    """The API server's answer, or that it gave none. `status` is HTTP's; 0: no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def connect(connections: int) -> Any:
    """The API of the cluster that this pod runs in, or that KUBECONFIG names.

    Raises:
        RolloutError: neither is there.
    """
    settings = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=settings)
        except Exception as error:  # a damaged file fails in any way that YAML can
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RolloutError(f"no cluster is configured: {told}; set KUBECONFIG=FILE") from error
    # Once, not three times: a server that is away would hold each look for a minute. No redirect: the client would
    # carry the caller's credentials to wherever a pod behind the API server's proxy points.
    settings.retries = urllib3.Retry(1, redirect=False)
    settings.connection_pool_maxsize = connections
    return client.CoreV1Api(client.ApiClient(settings))


def call(method: Any, *arguments: Any, **options: Any) -> Any:
    """One request.

    Raises:
        ApiError: it failed.
    """
    try:
        # A pair: the client takes a single float for no limit at all.
        return method(*arguments, _request_timeout=(TIMEOUT_S, TIMEOUT_S), **options)
    except client.ApiException as error:
        raise ApiError(_sentence(error), error.status or 0) from error
    except urllib3.exceptions.HTTPError as error:
        told = getattr(error, "reason", None) or error
        message = f"the API server does not answer: {told}; check KUBECONFIG and the network"
        raise ApiError(" ".join(message.split())) from error


def read(method: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    """One request; the answer's JSON as it came.

    Raises:
        ApiError: it failed.
    """
    answer = call(method, *arguments, _preload_content=False, **options)
    try:
        document = json.loads(answer.data)
    except (ValueError, urllib3.exceptions.HTTPError) as error:
        raise ApiError("the API server's answer broke off, or is no JSON; try again") from error
    if not isinstance(document, dict):
        raise ApiError("the API server's answer is no object; check KUBECONFIG")
    return document


def read_all(
    method: Any, *arguments: Any, keep: Callable[[Any], dict[str, Any]] = dict, **options: Any
) -> list[dict[str, Any]]:
    """All objects of a list, page by page; of each what `keep` takes from it.

    Raises:
        ApiError: a page failed.
    """
    items: list[dict[str, Any]] = []
    options |= {"limit": PAGE}
    while True:
        page = read(method, *arguments, **options)
        items += [keep(one) for one in page.get("items") or []]
        following = page.get("metadata", {}).get("continue")
        if not following:
            return items
        options["_continue"] = following


def _sentence(error: Any) -> str:
    try:
        message = json.loads(error.body or "{}").get("message") or error.reason
    except (ValueError, AttributeError):
        message = error.reason
    hint = {
        401: "; log in again, or check KUBECONFIG",
        403: "; ask for a role that may do this, or check KUBECONFIG",
    }.get(error.status, "")
    return f"the API server answered {error.status}: {message}{hint}"
