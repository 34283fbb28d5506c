"""Keys, certificates and tokens of a cluster, made anew for each with openssl."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

_DAYS = "30"


def create(folder: Path, addresses: list[str]) -> dict[str, str]:
    """Fill a folder with what the parts need, and return the tokens of ``admin`` and ``node``.

    The API server's certificate is for the addresses and the names that pods use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _openssl(folder, "genrsa -out sa.key 2048")
    _openssl(folder, "rsa -in sa.key -pubout -out sa.pub")
    create_authority(folder)
    names = ["DNS:localhost", "DNS:kubernetes.default.svc", "DNS:kubernetes.default", "DNS:kubernetes"]
    names += [f"IP:{address}" for address in addresses]
    sign(folder, "apiserver", "/CN=apiserver", names)
    sign(folder, "kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client", [])
    tokens = {name: secrets.token_hex(16) for name in ("admin", "node")}
    lines = [
        f"{tokens['admin']},admin,admin,system:masters",
        f"{tokens['node']},system:node:node-1,node-1,system:nodes",
    ]
    (folder / "tokens.csv").write_text("\n".join(lines) + "\n")
    return tokens


def create_authority(folder: Path) -> None:
    """Make an authority of one's own, ``ca.key`` and ``ca.crt``."""
    usage = "-addext keyUsage=critical,keyCertSign,cRLSign"
    _openssl(folder, f"req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days {_DAYS} -subj /CN=ca {usage}")


def sign(folder: Path, name: str, subject: str, names: list[str]) -> None:
    """Make a key and a certificate by the folder's authority, ``name.key`` and ``name.crt``."""
    _openssl(folder, f"req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj {subject}")
    # Python is strict from 3.13 on: a certificate has to name the key of its issuer.
    extensions = ["subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid", "basicConstraints=CA:FALSE"]
    extensions += ["keyUsage=critical,digitalSignature,keyEncipherment", "extendedKeyUsage=serverAuth,clientAuth"]
    extensions += [f"subjectAltName={','.join(names)}"] if names else []
    (folder / f"{name}.ext").write_text("\n".join(extensions))
    signer = f"-CA ca.crt -CAkey ca.key -CAcreateserial -days {_DAYS} -extfile {name}.ext"
    _openssl(folder, f"x509 -req -in {name}.csr -out {name}.crt {signer}")


def _openssl(folder: Path, arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments.split()], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
