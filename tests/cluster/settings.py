"""What the parts of a cluster are told: pure functions of where it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from ..machine.images import PAUSE

NODE = "node-1"


@frozen(kw_only=True)
class Place:
    """Where a cluster is: of what is here, two clusters on one machine share nothing.

    ``number`` is the cluster's own; ``folder`` keeps its data and ``run_dir`` its sockets, whose paths must be short.
    """

    number: int
    folder: Path
    run_dir: Path
    programs: Path
    api_port: int
    etcd_port: int
    etcd_peer_port: int
    controllers_port: int
    scheduler_port: int
    kubelet_port: int

    def save(self) -> None:
        """Write it down in the folder."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        (self.folder / "place.json").write_text(json.dumps(values))

    @classmethod
    def load(cls, folder: Path) -> Place | None:
        """Read what ``save`` wrote; None where nothing is."""
        try:
            values = json.loads((folder / "place.json").read_text())
        except FileNotFoundError:
            return None
        return cls(**{name: Path(value) if isinstance(value, str) else value for name, value in values.items()})

    @property
    def name(self) -> str:
        """Name it and its control group."""
        return self.run_dir.name

    @property
    def bridge(self) -> str:
        """Name the network interface that pods are behind."""
        return f"siteward{self.number}"

    @property
    def gateway(self) -> str:
        """The address by which pods reach this machine, and that of its kubelet."""
        return f"10.{200 + self.number}.0.1"

    @property
    def last_pod(self) -> str:
        """The last address that a pod may have."""
        return f"10.{200 + self.number}.127.254"

    @property
    def service(self) -> str:
        """The address of the API server for pods, on port 443."""
        return f"10.{200 + self.number}.128.1"

    @property
    def server(self) -> str:
        """The API server's URL on this machine."""
        return f"https://127.0.0.1:{self.api_port}"

    @property
    def runtime(self) -> Path:
        """The socket of containerd."""
        return self.run_dir / "containerd.sock"

    @property
    def pki(self) -> Path:
        """The folder of keys, certificates and tokens."""
        return self.folder / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "admin.kubeconfig"

    @property
    def node_kubeconfig(self) -> Path:
        """The kubelet's kubeconfig."""
        return self.folder / "node.kubeconfig"


def commands(place: Place) -> dict[str, list[str]]:
    """Return the command of each part, in the order in which they start."""
    devkube, pki = str(place.programs / "devkube"), place.pki
    etcd, peers = f"http://127.0.0.1:{place.etcd_port}", f"http://127.0.0.1:{place.etcd_peer_port}"
    # Thousands of pods come and go in one test: what clients hold back by default would be measured with them.
    controlling = [f"--kubeconfig={place.kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1"]
    controlling += ["--kube-api-qps=1000", "--kube-api-burst=2000"]
    return {
        "etcd": [
            *(devkube, "etcd", f"--data-dir={place.folder}/etcd", "--log-level=warn", "--unsafe-no-fsync"),
            *(f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}"),
            *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"),
            f"--initial-cluster=default={peers}",
        ],
        "apiserver": [
            *(devkube, "apiserver", f"--etcd-servers={etcd}"),
            *("--bind-address=127.0.0.1", f"--secure-port={place.api_port}", "--endpoint-reconciler-type=none"),
            *(f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key"),
            *(f"--client-ca-file={pki}/ca.crt", f"--token-auth-file={pki}/tokens.csv"),
            "--service-account-issuer=https://kubernetes.default.svc",
            *(f"--service-account-key-file={pki}/sa.pub", f"--service-account-signing-key-file={pki}/sa.key"),
            *("--authorization-mode=Node,RBAC", f"--service-cluster-ip-range={place.service[:-1]}0/24"),
            *("--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP"),
            *(
                f"--kubelet-client-certificate={pki}/kubelet-client.crt",
                f"--kubelet-client-key={pki}/kubelet-client.key",
            ),
        ],
        "controller-manager": [
            *(devkube, "controller-manager", *controlling, f"--secure-port={place.controllers_port}"),
            *(f"--root-ca-file={pki}/ca.crt", f"--service-account-private-key-file={pki}/sa.key"),
            "--use-service-account-credentials",
        ],
        "scheduler": [devkube, "scheduler", *controlling, f"--secure-port={place.scheduler_port}"],
        "forward": [
            devkube,
            "forward",
            f"/run/netns/{place.name}",
            f"{place.service}:443",
            f"127.0.0.1:{place.api_port}",
        ],
        "containerd": [str(place.programs / "containerd"), f"--config={place.folder}/containerd.toml"],
        "kubelet": [
            *(devkube, "kubelet", f"--config={place.folder}/kubelet.json", f"--kubeconfig={place.node_kubeconfig}"),
            *(f"--root-dir={place.folder}/kubelet", f"--cert-dir={pki}/kubelet"),
            *(f"--hostname-override={NODE}", f"--node-ip={place.gateway}"),
        ],
    }


def containerd(place: Place) -> str:
    """Return containerd's configuration."""
    # Without CAP_SYS_RESOURCE runc may not make a process less likely to be killed, and dies of it.
    return f"""
version = 2
root = "{place.folder}/containerd"
state = "{place.run_dir}/containerd"
[grpc]
  address = "{place.runtime}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{place.folder}/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{place.folder}/cni"
"""


def network(place: Place) -> dict[str, Any]:
    """Return the pods' network: a bridge of which this machine is the gateway, and no way out from there.

    The services' addresses are in it, beyond those for pods.
    """
    # Not isGateway: the plugin would make the machine forward packets, for good.
    pods = {"subnet": f"10.{200 + place.number}.0.0/16", "gateway": place.gateway, "rangeEnd": place.last_pod}
    addresses = {
        "type": "host-local",
        "dataDir": str(place.run_dir / "addresses"),
        "ranges": [[pods]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": place.bridge, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": place.name, "plugins": [bridge]}


def kubelet(place: Place) -> dict[str, Any]:
    """Return the kubelet's configuration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": place.gateway,
        "port": place.kubelet_port,
        "healthzPort": 0,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{place.name}",
        "failCgroupV1": False,
        "containerRuntimeEndpoint": f"unix://{place.runtime}",
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(place.pki / "ca.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "clusterDNS": [f"{place.service}0"],
        "clusterDomain": "cluster.local",
        "maxPods": 250,
        "podLogsDir": str(place.folder / "pod-logs"),
    }


def kubeconfig(place: Place, user: str, token: str, *, namespace: str = "default") -> dict[str, Any]:
    """Return the kubeconfig of a user with a token."""
    cluster = {"server": place.server, "certificate-authority": str(place.pki / "ca.crt")}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": place.name, "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [
            {"name": place.name, "context": {"cluster": place.name, "user": user, "namespace": namespace}},
        ],
        "current-context": place.name,
    }
