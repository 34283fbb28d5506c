"""What FLARE's parent tells a launcher to run: module, arguments, credentials, folders. Pure.

The parent computes all of it (``JOB_PROCESS_ARGS``); nothing here is the job's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.utils.job_launcher_utils import get_client_job_args, get_credential_env, get_server_job_args

JOB_DIR = "{job_dir}"


@frozen(kw_only=True)
class JobProcess:
    """One job process of FLARE: ``args`` end with ``--set``; ``credentials`` (variable: value) are secret.

    ``python_path`` are folders with code of the job and of the site, below ``workspace`` or not.
    """

    module: str
    args: Sequence[str]
    credentials: Mapping[str, str]
    workspace: str
    python_path: Sequence[str] = ()

    def args_in(self, workspace: str) -> list[str]:
        """Return the arguments for a process that sees FLARE's workspace at another path."""
        return [_moved(each, self.workspace, workspace) for each in self.args]

    def python_path_in(self, workspace: str) -> list[str]:
        """Return the folders below the workspace as such a process sees them; others do not come along."""
        below = [each for each in self.python_path if _is_below(each, self.workspace)]
        return [_moved(each, self.workspace, workspace).removeprefix("./") for each in below]


def read_job_process(fl_ctx: Any, job_id: str, *, server: bool) -> JobProcess:
    """Return what FLARE's context says is to run; ValueError naming what is missing in it."""
    job_args = _prop(fl_ctx, FLContextKey.JOB_PROCESS_ARGS)
    workspace = _prop(fl_ctx, FLContextKey.WORKSPACE_OBJECT)
    for name in (JobProcessArgs.EXE_MODULE, JobProcessArgs.WORKSPACE):
        if name not in job_args:
            raise ValueError(f"FLARE's {FLContextKey.JOB_PROCESS_ARGS} has no {name!r}; is this NVIDIA FLARE 2.9?")
    names = get_server_job_args(False, False) if server else get_client_job_args(False, False)
    root = str(job_args[JobProcessArgs.WORKSPACE][1])
    args = [word for name in names if job_args.get(name) for word in _words(job_args[name], root)]
    known = getattr(fl_ctx.get_prop(FLContextKey.ARGS), "set", None) or []
    options = str(job_args.get(JobProcessArgs.OPTIONS, ("", ""))[1])
    folders = [workspace.get_app_custom_dir(job_id), workspace.get_site_custom_dir()]
    return JobProcess(
        module=str(job_args[JobProcessArgs.EXE_MODULE][1]),
        args=[*args, "--set", *split_options(options, known)],
        credentials=get_credential_env(job_args),
        workspace=os.path.abspath(root),
        python_path=[os.path.abspath(folder) for folder in folders if folder],
    )


def split_options(options: str, known: Iterable[str]) -> list[str]:
    """Return the words of ``--set``: those that the parent was started with stay whole, blanks and all."""
    known = list(known)
    start = "".join(f" {each}" for each in known)
    return [*known, *options[len(start) :].split()] if options.startswith(start) else options.split()


def _words(entry: Sequence[Any], root: str) -> list[str]:
    flag, value = entry
    text = str(value)
    return [str(flag), os.path.abspath(text) if _is_below(text, root) else text]


def _prop(fl_ctx: Any, key: str) -> Any:
    value = fl_ctx.get_prop(key)
    if not value:
        raise ValueError(f"FLARE's context has no {key!r}; is this NVIDIA FLARE 2.9?")
    return value


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _moved(text: str, old: str, new: str) -> str:
    return new + text[len(old.rstrip("/")) :] if _is_below(text, old) else text
