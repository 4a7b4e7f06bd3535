"""A real Kubernetes on one machine: a control plane and edge nodes, each in a network namespace of its own.

No container engine, no registry, no uplink. Kubernetes and helm are built from published Go modules, images by buildah.
It stands in for K3s, which is a certified Kubernetes; the chart uses nothing that only K3s has.
"""
