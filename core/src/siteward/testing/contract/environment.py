"""Promises about a job's environment and its secrets."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from pathlib import Path

import attrs
import pytest

from siteward.testing.kit import Kit
from siteward.testing.promises import needs
from siteward.wire import ref_data, result_data

VALUES = {
    "KIT_EMPTY": "",
    "KIT_SPACES": "  a  b ",
    "KIT_LINES": "one\ntwo\n",
    "KIT_UNICODE": "caf\u00e9 \u2713 \U0001f680",
    "KIT_QUOTES": "'\"`$HOME\\",
    "KIT_EQUALS": "a=b=c",
    "KIT_BRACES": "{site} {job_dir}",
    "kit_lower": "x",
}


class Environment:
    """A job's environment is what it was given, and nothing else."""

    def test_environment_is_exact(self, kit: Kit) -> None:
        """The job's variables are exact, whatever they hold; there are no others but the platform's own few."""
        handle, _ = kit.run(kit.site(), kit.argv("report"), env=VALUES)
        env = kit.reported(handle)["env"]
        given = VALUES | {
            "SITEWARD_SITE": "site-1",
            "SITEWARD_JOB_ID": handle.job_id,
            "SITEWARD_BACKEND": kit.setup.name,
            "SITEWARD_ATTEMPT": "1",
        }
        assert {name: env.get(name) for name in given} == given
        assert env["SITEWARD_JOB_DIR"]
        assert set(env) - set(given) - {"SITEWARD_JOB_DIR"} <= set(kit.setup.base_env)

    def test_own_environment_does_not_leak(self, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
        """The environment of the process that launches is not the job's."""
        monkeypatch.setenv("KIT_OF_THE_PARENT", "leaked")
        handle, _ = kit.run(kit.site(), kit.argv("report"))
        assert "KIT_OF_THE_PARENT" not in kit.reported(handle)["env"]

    def test_large_environment_is_whole(self, kit: Kit) -> None:
        """An environment of 100 KB reaches the job whole."""
        values = {f"KIT_{number}": f"{number:03} " * 125 for number in range(200)}
        handle, _ = kit.run(kit.site(), kit.argv("report"), env=values)
        env = kit.reported(handle)["env"]
        assert {name: env.get(name) for name in values} == values

    @needs(files=True)
    def test_secret_is_only_in_the_environment(self, kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
        """A secret's value reaches the job, and is in no command line, ref, result, log of ours or file of the site."""
        value = f"secret-{secrets.token_hex(16)}"
        (kit.directory / "lent").write_text(value)
        caplog.set_level(logging.DEBUG)
        spec = {"kit": {"file": str(kit.directory / "lent")}}
        site = kit.site(job_secrets=spec)
        handle = kit.launch(site, kit.argv("secret", "KIT_TOKEN"), secrets={"KIT_TOKEN": "kit"})
        kit.reached(handle, "digest")
        lines = kit.platform.command_lines() if kit.platform.sees_processes else []
        assert not [line for line in lines if value in line], "it is in a command line"
        assert handle.ref is not None
        assert value not in json.dumps(ref_data(handle.ref))
        assert value not in repr(handle.status())
        kit.release(handle)
        result = kit.result(handle)
        assert (handle.job_dir / "digest").read_text() == hashlib.sha256(value.encode()).hexdigest()
        assert value not in json.dumps(result_data(result))
        assert value not in caplog.text
        kit.close(site)
        assert [path for path in _files(kit.site_file().parent) if value.encode() in path.read_bytes()] == []

    @needs("siteward_render_job")
    def test_render_shows_no_secret(self, kit: Kit) -> None:
        """What is rendered names a secret's variable, if at all, with *** for its value."""
        value = f"secret-{secrets.token_hex(16)}"
        launcher = kit.launcher()
        request = kit.request(launcher, kit.sh("true"), secrets={"KIT_TOKEN": value})
        assert value not in json.dumps(launcher.render(request), default=repr)

    def test_options_are_documented(self, kit: Kit) -> None:
        """Every field of JobOptions, SiteOptions and StudyOptions is frozen and says in its help what it is for."""
        backend = kit.plugins.backend(kit.setup.name)
        for kind in ("JobOptions", "SiteOptions", "StudyOptions"):
            options = getattr(backend, kind, None)
            if options is None:
                continue
            assert options.__setattr__ is not object.__setattr__, f"{kind} is not frozen: use attrs.frozen"
            silent = [field.name for field in attrs.fields(options) if not field.metadata.get("help")]
            assert not silent, f"{kind}: no metadata={{'help': …}} on {', '.join(silent)}"

    @needs("siteward_resolve_options")
    def test_resolving_options_is_pure(self, kit: Kit) -> None:
        """Resolving options gives the same for the same, and leaves what it was given as it was."""
        launcher = kit.launcher()
        request = kit.request(launcher, kit.sh("true"))
        before = repr(request.options)
        hook = launcher.manager.hook.siteward_resolve_options
        first, second = hook(options=request.options), hook(options=request.options)
        assert first == second == hook(options=first), "resolving what is resolved changes nothing"
        assert repr(request.options) == before
        assert type(first) is type(request.options)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
