"""What it costs to build a pod, in microseconds of one core: no cluster is asked.

    python bench/k8s_build.py [--rounds 7] [--json FILE]

Aim: a whole build takes less than 200 µs, so that 5,000 of them a second fit on one core. A figure is the best of all
rounds: what else the machine does only adds to it. About half of it is writing and hashing the manifest.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import print_json

from siteward import JobRequest, PortableResources
from siteward_k8s.build import build_pod
from siteward_k8s.limits import resolve
from siteward_k8s.options import Dataset, JobOptions, SecretKey, SiteOptions, StudyOptions
from siteward_k8s.place import Place
from siteward_k8s.template import read_template

NUMBER = 2000
TEMPLATE: dict[str, Any] = {
    "spec": {
        "containers": [
            {
                "name": "job",
                "env": [{"name": "PYTHONPATH", "value": "/lib"}],
                "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
                "resources": {"limits": {"rdma/hca": "1"}},
            },
            {"name": "proxy", "image": "proxy:1"},
        ],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        "nodeSelector": {"pool": "fl"},
    }
}
STUDY = StudyOptions(
    datasets={name: Dataset(source=name) for name in ("ct", "mri")},
    secret_env={"DB": SecretKey(source="db", key="password")},
)


def a_request(site: SiteOptions, **fields: Any) -> JobRequest:
    """Return a job as most are: ten variables, CPUs and memory."""
    return JobRequest(
        job_id="fedavg-digits-1a2b3c4d",
        name="fedavg-digits",
        site="site-1",
        job_dir=Path("/state/jobs/fedavg-digits-1a2b3c4d/work"),
        options=resolve(JobOptions(image="registry.local/fl:1"), site),
        backend="k8s",
        command=["python3", "-u", "fedavg.py", "{site}"],
        env={f"VARIABLE_{number}": "some value" for number in range(10)},
        resources=PortableResources(num_of_cpus=1, memory=2**31),
        **fields,
    )


def main() -> None:
    """Measure, and print a line for each kind of pod."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--json", type=Path)
    options = arguments.parse_args()
    site = SiteOptions(max_cpu="8", max_memory="32Gi", allowed_images=("registry.local/*",))
    place = Place(owner="0123456789abcdef", site="site-1", backend="k8s", options=site, namespace="fl")
    plain = a_request(site)
    full = a_request(site, study=STUDY, study_name="cancer", secrets={"TOKEN": "x"}, timeout=3600.0)
    kinds: dict[str, Callable[[], object]] = {
        "name": lambda: place.pod_name("fedavg-digits-1a2b3c4d", 1),
        "pod": lambda: build_pod(plain, place),
        "pod with study and secrets": lambda: build_pod(full, place),
        "the same with a template": lambda: build_pod(full, place, read_template(TEMPLATE, Path())),
    }
    found = {
        words: min(timeit.repeat(each, number=NUMBER, repeat=options.rounds)) / NUMBER * 1e6
        for words, each in kinds.items()
    }
    for words, cost in found.items():
        print(f"{words:<28} {cost:7.1f} µs")
    if options.json:
        print_json(options.json, found)


if __name__ == "__main__":
    main()
