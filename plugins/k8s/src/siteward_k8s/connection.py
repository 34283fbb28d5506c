"""Where a cluster's API server is and who asks it, as the official client reads that from kubeconfigs and pods."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from siteward import nearest
from siteward_k8s.errors import NotSent

# Concurrent first imports of the client's package wait for each other for ever.
_IMPORTING = threading.Lock()
_SERVICE_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_IDLE_CONNECTIONS = 32
# Contexts that an error names.
_MANY = 12
# The client's own look at what has expired reads the whole environment; it renews minutes before.
_ASK_CONFIG_AGAIN = 5.0


class Where(Protocol):
    """The site's options of where its cluster is."""

    @property
    def kubeconfig(self) -> str | None:
        """A kubeconfig file."""

    @property
    def context(self) -> str | None:
        """The name of a context in it."""

    @property
    def namespace(self) -> str | None:
        """The namespace of jobs."""


class Connection:
    """One set of credentials with its pool of connections.

    ``namespace`` is the one that the kubeconfig's context or the pod's service account names, ``tls`` None for plain
    HTTP, ``proxy`` the URL of a proxy as urllib3 has it.
    """

    def __init__(self, config: Any, manager: Any, tls: ssl.SSLContext | None, namespace: str) -> None:
        self.address: str = config.host.rstrip("/")
        self.namespace = namespace
        self.tls = tls
        self.proxy = manager.proxy
        self.server_name: str | None = config.tls_server_name
        self._config = config
        self._manager = manager
        self._prefix = urlsplit(self.address).path
        self._pool = manager.connection_from_url(self.address)
        self._pool.ConnectionCls = _sure(self._pool.ConnectionCls)
        self._lock = threading.Lock()
        self._headers: dict[str, str] = {}
        self._fresh_until = 0.0

    def authorization(self) -> dict[str, str]:
        """Return the header that says who asks; what has expired is renewed first, by the client's own rules."""
        if time.monotonic() < self._fresh_until:
            return self._headers
        with self._lock:
            try:
                value = self._config.get_api_key_with_prefix("BearerToken", alias="authorization") or ""
            except Exception as error:  # whatever a credential plugin may do
                raise NotSent(f"the credentials for {self.address} cannot be renewed: {_safe(error)}") from None
            value = value.strip()
            if not (value.isascii() and value.isprintable()):
                # http.client would repeat it in its error.
                raise NotSent(f"the token for {self.address} has characters that no token has. Renew it")
            self._headers = {"Authorization": value} if value else {}
            self._fresh_until = time.monotonic() + _ASK_CONFIG_AGAIN
            return self._headers

    def open(self, method: str, path: str, **options: Any) -> Any:
        """Send one request and return urllib3's response."""
        options |= {"retries": False, "redirect": False}
        if self.proxy is not None and self.tls is None:
            return self._manager.urlopen(method, self.address + path, **options)
        # The manager would look for this pool each time.
        return self._pool.urlopen(method, self._prefix + path, assert_same_host=False, **options)

    def close(self) -> None:
        """Let go of the connections that nobody uses just now."""
        self._manager.clear()


def _sure(kind: Any) -> Any:
    """Return a class of connections of which a failed handshake is no connection: nothing was sent by it."""
    from urllib3.exceptions import NewConnectionError

    class Sure(kind):  # type: ignore[misc]
        def connect(self) -> None:
            try:
                super().connect()
            except OSError as error:
                raise NewConnectionError(self, f"no connection: {error}") from error

    return Sure


def connect(where: Where, base_dir: Path) -> Connection:
    """Read the configuration and prepare connections; nothing is asked yet. NotSent says what is wrong with it.

    What the site names counts: ``kubeconfig``, or ``context`` in the kubeconfig that kubectl would use. If it names
    neither: KUBECONFIG if that is set, inside of a pod its service account, else ``~/.kube/config``.
    """
    kubernetes: Any = _client()
    config = type.__call__(kubernetes.client.configuration.Configuration)
    config.connection_pool_maxsize = _IDLE_CONNECTIONS
    named = where.kubeconfig or where.context or os.environ.get("KUBECONFIG")
    if named or "KUBERNETES_SERVICE_HOST" not in os.environ:
        path = _kubeconfig(where, base_dir)
        if not any(os.path.exists(each) for each in path.split(os.pathsep)):
            unnamed = "" if named else ", and neither the site file's `kubeconfig` nor KUBECONFIG names one"
            raise NotSent(f"there is no kubeconfig {path}{unnamed}. {_REMEDY}")
        try:
            contexts, current = _contexts(kubernetes, path)
            chosen = _chosen(path, contexts, where.context, current)
            kubernetes.config.load_kube_config(path, chosen, config)
            namespace = str(contexts[chosen]["context"].safe_get("namespace") or "") if chosen is not None else ""
        except NotSent:
            raise
        except Exception as error:  # the client raises whatever a wrong file makes it trip over
            raise NotSent(f"{path}: {_safe(error)}. {_REMEDY}") from None
    else:
        try:
            kubernetes.config.load_incluster_config(config)
            namespace = _SERVICE_NAMESPACE.read_text().strip() if _SERVICE_NAMESPACE.exists() else ""
        except Exception as error:
            raise NotSent(f"this pod has no service account to ask the API server with: {_safe(error)}") from None
    return _connection(config, namespace or "default", kubernetes.client.rest.RESTClientObject)


def _client() -> Any:
    """Import the official client; it has no types worth the name."""
    with _IMPORTING:
        import kubernetes.client.configuration
        import kubernetes.client.rest
        import kubernetes.config.kube_config
    return kubernetes


_REMEDY = (
    "Set `kubeconfig` and `context` in the site file to a kubeconfig and a context in it (kubectl config get-contexts)"
)


def _kubeconfig(where: Where, base_dir: Path) -> str:
    if where.kubeconfig:
        return str(base_dir / os.path.expanduser(where.kubeconfig))
    return os.path.expanduser(os.environ.get("KUBECONFIG") or "~/.kube/config")


def _contexts(kubernetes: Any, path: str) -> tuple[dict[str, Any], str | None]:
    """Return a kubeconfig's contexts by name, and the name of its current one, if it has one."""
    merged = kubernetes.config.kube_config.KubeConfigMerger(path).config
    return {each["name"]: each for each in merged.value["contexts"]}, merged.safe_get("current-context") or None


def _chosen(path: str, contexts: Mapping[str, Any], named: str | None, current: str | None) -> str | None:
    """Return the context to use, None if the kubeconfig has none at all; NotSent when it has others only."""
    chosen = named or current
    if chosen in contexts or not (contexts or named):
        return chosen
    names = [str(each) for each in contexts]
    having = f"it has: {', '.join(names[:_MANY])}{' …' if len(names) > _MANY else ''}" if names else "it has none"
    if chosen is None:
        raise NotSent(f"kubeconfig {path} has no current context; {having}. Set `context` in the site file to one")
    close = nearest(str(chosen), names)
    hint = f"; did you mean {close!r}?" if close else "."
    what = "context" if named else "context of the name of its current-context,"
    remedy = "Set `context` in the site file to one that it has, or `kubeconfig` to another file"
    raise NotSent(f"kubeconfig {path} has no {what} {chosen!r}; {having}{hint} {remedy}")


def _connection(config: Any, namespace: str, rest: Any) -> Connection:
    try:
        manager = rest(config).pool_manager
        tls = _tls(config) if config.host.startswith("https:") else None
    except (OSError, ValueError) as error:
        raise NotSent(f"{config.host}: its certificates cannot be used: {_safe(error)}. Check the kubeconfig") from None
    # One context for all connections: files are read once, and may go away (they lie in /tmp).
    for key in ("cert_reqs", "ca_certs", "cert_file", "key_file", "ca_cert_data"):
        manager.connection_pool_kw.pop(key, None)
    if tls is not None:
        manager.connection_pool_kw["ssl_context"] = tls
    return Connection(config, manager, tls, namespace)


def _tls(config: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=config.ssl_ca_cert)
    # Python 3.13 asks more of certificates than kubectl does, and than many clusters' have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    if not config.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif config.assert_hostname is False:
        context.check_hostname = False
    if config.cert_file:
        context.load_cert_chain(config.cert_file, config.key_file)
    return context


def _safe(error: BaseException) -> str:
    """Return an error's words if they cannot hold a secret, else only what kind of error it is."""
    from kubernetes.config import ConfigException

    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"is not YAML, see line {mark.line + 1}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return str(error).strip().rstrip(".") if isinstance(error, ConfigException) else type(error).__name__
