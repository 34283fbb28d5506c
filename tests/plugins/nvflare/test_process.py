"""What FLARE's parent tells a launcher to run."""

from types import SimpleNamespace

import pytest
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace

from siteward_nvflare.process import read_job_process, split_options

from .parent import CREDENTIALS

JOB = "550e8400-e29b-41d4-a716-446655440000"


def context(root, **more):
    """Return a context as FLARE's client makes it for a launch."""
    (root / "startup").mkdir(parents=True, exist_ok=True)
    (root / "local").mkdir(exist_ok=True)
    job_args = {
        "exe_module": ("-m", "nvflare.private.fed.app.client.worker_process"),
        "job_id": ("-n", JOB),
        "client_name": ("-c", "site-1"),
        "workspace": ("-m", str(root)),
        "startup_dir": ("-w", str(root / "startup")),
        "parent_url": ("-p", "tcp://localhost:4000"),
        "target": ("-g", "localhost:8002"),
        "scheme": ("-scheme", "http"),
        "startup_config_file": ("-s", "fed_client.json"),
        "options": ("--set", " secure_train=true print_conf=True"),
        **CREDENTIALS,
    }
    values = {
        FLContextKey.JOB_PROCESS_ARGS: job_args,
        FLContextKey.WORKSPACE_OBJECT: Workspace(str(root), "site-1"),
        FLContextKey.ARGS: SimpleNamespace(set=["secure_train=true"], workspace=str(root)),
        **more,
    }
    fl_ctx = FLContext()
    for key, value in values.items():
        fl_ctx.set_prop(key, value, private=True, sticky=False)
    return fl_ctx


def test_the_command_is_words_and_never_a_string(tmp_path):
    """Blanks in a path stay in one word (FLARE's own launcher makes two of it), and nothing secret is among them."""
    root = tmp_path / "my site"
    process = read_job_process(context(root), JOB, server=False)
    assert process.module == "nvflare.private.fed.app.client.worker_process"
    assert process.args[:4] == ["-m", str(root), "-w", str(root / "startup")]
    assert process.args[-3:] == ["--set", "secure_train=true", "print_conf=True"]
    assert "secret" not in " ".join(process.args)
    assert set(process.credentials.values()) == {value for _, value in CREDENTIALS.values()}
    assert str(root / JOB / "app_site-1" / "custom") in process.python_path


def test_a_process_that_sees_the_workspace_elsewhere_is_told_so(tmp_path):
    """Every path below it moves, nothing else does."""
    process = read_job_process(context(tmp_path), JOB, server=False)
    moved = process.args_in("{job_dir}")
    assert moved[:4] == ["-m", "{job_dir}", "-w", "{job_dir}/startup"]
    assert moved[4:] == list(process.args[4:])
    assert process.python_path_in(".")[0] == f"{JOB}/app_site-1/custom"


@pytest.mark.parametrize(
    ("options", "known", "words"),
    [
        (" a=1 b=2 print_conf=True", ["a=1", "b=2"], ["a=1", "b=2", "print_conf=True"]),
        (
            " a=x y restore_snapshot=False print_conf=True",
            ["a=x y"],
            ["a=x y", "restore_snapshot=False", "print_conf=True"],
        ),
        (" a=1 print_conf=True", ["other"], ["a=1", "print_conf=True"]),
        ("", [], []),
    ],
)
def test_options_keep_their_blanks(options, known, words):
    """Those that the parent was started with are whole words, also with blanks in them."""
    assert split_options(options, known) == words


@pytest.mark.parametrize("missing", [FLContextKey.JOB_PROCESS_ARGS, FLContextKey.WORKSPACE_OBJECT])
def test_what_is_missing_is_named(tmp_path, missing):
    """An older FLARE has not all of it."""
    with pytest.raises(ValueError, match=f"{missing}.*NVIDIA FLARE 2.9"):
        read_job_process(context(tmp_path, **{missing: None}), JOB, server=False)
