"""stopgap"""
from __future__ import annotations
from collections.abc import Callable, Iterator
from siteward import JobRef, JobState, JobStatus
from siteward_k8s.client import Cluster
from siteward_k8s.errors import Refused
import time

def read_logs(cluster: Cluster, ref: JobRef, container: str, follow: bool, tail: int | None, ended: Callable[[], bool]) -> Iterator[bytes]:
    while follow:
        try:
            yield from cluster.read_log(ref.data["name"], container, follow=True, tail_lines=tail)
            return
        except Refused:
            if ended():
                return
            time.sleep(0.2)
    try:
        yield from cluster.read_log(ref.data["name"], container, tail_lines=tail)
    except Refused:
        return
