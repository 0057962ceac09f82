"""Make certificates for a Dask cluster that speaks TLS: an authority, and one for all its processes."""

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dnnflow.errors import InputError

FILES = ("ca.pem", "cert.pem", "key.pem")
VALID_DAYS = 3650
ALWAYS = ("localhost", "127.0.0.1", "::1")


def make_certificates(directory: Path, hosts: Sequence[str] = ()) -> tuple[Path, ...]:
    """Write `ca.pem`, `cert.pem` and `key.pem` and return their paths.

    Scheduler, workers and clients all show the same certificate: Dask lets in whoever has one of this
    authority. The authority's own key is not kept, so nobody can make another one later. `hosts` are names
    and IP addresses of the machines, besides localhost.

    Raises
    ------
    InputError
        When one of the files is there already.
    """
    existing = [name for name in FILES if (directory / name).exists()]
    if existing:
        raise InputError(f"certificates are never overwritten, got {', '.join(existing)} in {directory}; "
                         "remove them first, or choose another directory")  # fmt: skip
    authority_key, node_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _authority(authority_key)
    node = _node(node_key, authority, authority_key, hosts)
    directory.mkdir(parents=True, exist_ok=True)
    key_pem = node_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # The key goes first: if it cannot be made privately, nothing is.
    _write_new(directory / "key.pem", key_pem, mode=0o600)
    _write_new(directory / "cert.pem", node.public_bytes(serialization.Encoding.PEM), mode=0o644)
    _write_new(directory / "ca.pem", authority.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return tuple(directory / name for name in FILES)


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _name("dnnflow cluster authority")
    return (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _node(key: ec.EllipticCurvePrivateKey, authority: x509.Certificate,
          authority_key: ec.EllipticCurvePrivateKey, hosts: Sequence[str]) -> x509.Certificate:  # fmt: skip
    names = [_general_name(host) for host in dict.fromkeys([*ALWAYS, *hosts])]
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    return (
        _builder(_name("dnnflow cluster node"), authority.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # A machine whose clock is a little behind must accept it today.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_new(path: Path, content: bytes, *, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
        file.write(content)
