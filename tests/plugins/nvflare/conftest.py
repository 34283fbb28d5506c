"""Fixtures of these tests; without NVIDIA FLARE none of them is collected (`tox -e nvflare` has it)."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("nvflare") else ["*"]
if find_spec("nvflare"):
    from .parent import make, parent, with_faults  # noqa: F401
