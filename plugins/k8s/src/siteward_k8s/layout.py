"""The names that siteward uses in a cluster: containers, paths, labels and annotations."""

from __future__ import annotations

# Containers. The job's keeps the name that a template gives it; its pod's annotation CONTAINER says which it is.
JOB = "job"
STAGE = "siteward-stage"
HELPER = "siteward-helper"

# The job directory is a folder of the volume: of its own top nobody but root could change mode or owner.
JOB_VOLUME = "siteward-job"
VOLUME = "/siteward"
JOB_DIR = "/siteward/job"

# Seen by the staging and the helper container alone.
CONTROL_VOLUME = "siteward-control"
CONTROL = "/siteward-control"
STAGED = f"{CONTROL}/staged"
RELEASE = f"{CONTROL}/release"

DATA_DIR = "/data"

PREFIX = "siteward.dev/"
APP = "app.kubernetes.io/name"
APP_NAME = "siteward-job"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "siteward"

# Labels. Values are made safe where a label cannot hold them; annotations of the same names have the full texts.
OWNER = f"{PREFIX}owner"
SITE = f"{PREFIX}site"
JOB_ID = f"{PREFIX}job-id"
ATTEMPT = f"{PREFIX}attempt"

# Annotations: what another driver has to know of a pod, whatever its own site file says.
NAME = f"{PREFIX}name"
BACKEND = f"{PREFIX}backend"
CONTAINER = f"{PREFIX}container"
SPEC_HASH = f"{PREFIX}spec-hash"
JOB_DIRECTORY = f"{PREFIX}job-directory"
# Seconds as JSON has them; null: without end.
GRACE = f"{PREFIX}grace"
PENDING_TIMEOUT = f"{PREFIX}pending-timeout"
START_TIMEOUT = f"{PREFIX}start-timeout"
GATED_TIMEOUT = f"{PREFIX}gated-timeout"
END = f"{PREFIX}end"
