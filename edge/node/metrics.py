"""What Prometheus scrapes from a node."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The node's measures, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["protocol", "outcome"]
        self.requests = Counter("edgedistill_requests", "Inference requests", labels, registry=self.registry)
        self.seconds = Histogram("edgedistill_request_seconds", "Time to answer", ["protocol"], registry=self.registry)
        self.release = Gauge("edgedistill_release_version", "Version of the active release", registry=self.registry)
        kinds = ["protocol", "reason"]
        self.rejected = Counter("edgedistill_rejected", "Rejected requests, by reason", kinds, registry=self.registry)

    def refused(self, protocol: str, reason: str) -> None:
        """Count a request that ended in a ProtocolError."""
        self.requests.labels(protocol, "refused").inc()
        self.rejected.labels(protocol, reason).inc()
