"""The cluster's certificates and kubeconfigs, made anew for each testbed."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.cluster.testbed.network import API_SERVICE, CLOUD_ADDRESS

SERVER = f"https://{CLOUD_ADDRESS}:6443"


@dataclass(frozen=True)
class Authority:
    """A certificate authority that signs for one testbed."""

    folder: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, folder: Path) -> "Authority":
        """A new one; its certificate is `ca.crt`."""
        folder.mkdir(parents=True, mode=0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("edgedistill-testbed", None)
        certificate = (
            _builder(name, name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder, certificate, key)

    def issue(self, file: str, user: str, *, group: str | None = None, addresses: Sequence[str] = ()) -> None:
        """A client and server certificate: `<file>.crt` and `<file>.key`."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_address(a)) if a[0].isdigit() else x509.DNSName(a) for a in addresses
        ]
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        builder = _builder(_name(user, group), self.certificate.subject, key).add_extension(usage, critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        (self.folder / f"{file}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        write_key(self.folder / f"{file}.key", key)

    def kubeconfig(self, file: str) -> Path:
        """A kubeconfig for the user of an issued certificate."""
        path = self.folder / f"{file}.kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "testbed", "cluster": {"server": SERVER, "certificate-authority": str(self.folder / "ca.crt")}}
            ],
            "users": [
                {
                    "name": file,
                    "user": {
                        "client-certificate": str(self.folder / f"{file}.crt"),
                        "client-key": str(self.folder / f"{file}.key"),
                    },
                }
            ],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": file}}],
            "current-context": "testbed",
        }
        path.write_text(yaml.safe_dump(document))
        path.chmod(0o600)
        return path


def make_certificates(folder: Path, nodes: Sequence[tuple[str, str]]) -> Authority:
    """Everything that the control plane and the nodes need.

    Args:
        folder: to be made.
        nodes: (name, address) of each.
    """
    authority = Authority.make(folder)
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
    authority.issue("apiserver", "kube-apiserver", addresses=(*names, CLOUD_ADDRESS, API_SERVICE, "127.0.0.1"))
    authority.issue("admin", "admin", group="system:masters")
    authority.issue("controller-manager", "system:kube-controller-manager")
    authority.issue("scheduler", "system:kube-scheduler")
    authority.issue("proxy", "system:kube-proxy")
    authority.issue("kubelet-client", "kube-apiserver-kubelet-client")
    for name, address in nodes:
        authority.issue(name, f"system:node:{name}", group="system:nodes", addresses=(name, address))
    for file in ("admin", "controller-manager", "scheduler", "proxy", *(name for name, _ in nodes)):
        authority.kubeconfig(file)
    accounts = ec.generate_private_key(ec.SECP256R1())
    write_key(folder / "accounts.key", accounts)
    public = accounts.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "accounts.pub").write_bytes(public)
    return authority


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """A private key that only its owner reads."""
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _name(user: str, group: str | None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
    if group:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
    return x509.Name(parts)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=7))
    )
