"""A parent of jobs: launches what standard input says, one request a line, and prints each ref; then stays."""

import json
import logging
import sys
from pathlib import Path

from attrs import asdict

from siteward import Context, JobRequest
from siteward_process.backend import Backend

context = Context(site="here", backend="process", directory=Path(sys.argv[1]), log=logging.getLogger())
backend = Backend(context, Backend.SiteOptions())
for line in sys.stdin:
    fields = json.loads(line)
    fields["job_dir"] = Path(fields["job_dir"])
    ref = backend.siteward_launch_job(JobRequest(name="job", site="here", backend="process", **fields))
    print(json.dumps(asdict(ref)), flush=True)
