"""The command line: exit codes, documents, words for people, and never a traceback."""

import json
import os
import pty
import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from siteward.cli import main
from siteward.cli.output import age, one_line, print_table, visible
from siteward.cli.results import file_name

from .cli_kit import BACKEND, PYTHON

COMMANDS = [
    *("run", "render", "ps", "status", "events", "logs", "wait", "stop"),
    *("gc", "resources", "plugins", "doctor", "schema"),
]


def invoke(*args, **env):
    """Run a command in this process; good for those that open no site."""
    result = CliRunner(env={"SITEWARD_SITE_FILE": "", **env}).invoke(main, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    """`--help` says what a command does and what each of its options is for."""
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert command in invoke("--help").output
    options = [line for line in result.output.splitlines() if line.strip().startswith("-")]
    assert options
    assert len(result.output.splitlines()) > len(options)


def test_version_is_the_distributions():
    assert version("siteward") in invoke("--version").output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "Usage"),
        (["rum"], "Did you mean 'run'?"),
        (["frobnicate"], "Choose one of run, render"),
        (["ps"], "SITEWARD_SITE_FILE"),
        (["run", "job.yaml"], "SITEWARD_SITE_FILE"),
        (["ps", "--site", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file"),
        (["run", "nowhere.yaml", "--site", "a.yaml", "--site", "b.yaml"], "b.yaml: cannot be read"),
        (["run", "job.yaml", "--site", "a.yaml", "--detach", "--follow"], "logs -f"),
        (["run", "job.yaml", "--site", "a.yaml", "--wait-resources", "-1"], "0 or more, got '-1'"),
        (
            ["stop", "x", "--site", "a.yaml", "--grace", "x"],
            "--grace': expected a number of seconds, 0 or more, got 'x'",
        ),
        (["stop", "x", "--site", "a.yaml", "--grace", "-2"], "expected a number of seconds, 0 or more, got '-2'"),
        (["stop", "x", "--site", "a.yaml", "--grace", "nan"], "expected a number of seconds, 0 or more, got 'nan'"),
        (["stop", "x", "--site", "a.yaml", "--grace", "5s"], "expected a number of seconds, 0 or more, got '5s'"),
        (["logs", "x", "--site", "a.yaml", "--tail", "many"], "many"),
        (["schema", "jobb"], "Did you mean 'job'?"),
        (["schema", "nothing-like-it"], "say job or site"),
    ],
)
def test_usage_errors_are_exit_code_2_with_what_to_do(args, words):
    """A wrong command line is told in words on stderr, with exit code 2, and no traceback."""
    result = invoke(*args)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("subject", ["job", "site"])
def test_schema_prints_the_files_json_schema(subject):
    schema = json.loads(invoke("schema", subject).stdout)
    assert schema["type"] == "object"
    assert "name" in schema["required"]
    assert schema["$schema"].startswith("https://json-schema.org/")


def test_schema_of_a_backend_has_its_three_kinds_of_options(cli):
    assert cli.json_of("schema", BACKEND).keys() == {"job", "site", "study"}


def test_plugins_shows_broken_ones_with_distribution_and_reason(cli):
    """A plugin that cannot be loaded is listed as broken; the others are loaded all the same."""
    cli.add_plugin("backends", "broken", "no_such_module:Backend")
    records = {(each["group"], each["name"]): each for each in cli.json("plugins")}
    assert records["siteward.backends", "kept"] == {
        "group": "siteward.backends",
        "name": "kept",
        "distribution": "test-kept",
        "version": "1.0",
        "status": "loaded",
        "reason": "",
    }
    broken = records["siteward.backends", "broken"]
    assert broken["status"] == "broken"
    assert "no_such_module" in broken["reason"]
    table = cli("plugins")
    assert table.returncode == 0
    assert "no_such_module" in table.stdout


@pytest.mark.parametrize("command", [["plugins"], ["--help"], ["schema", "job"]])
def test_light_commands_import_no_heavy_module(cli, command):
    """What opens no site imports no database, no rich, no event loop and no platform client."""
    script = (
        "import sys\nfrom siteward.cli import main\n"
        f"try: main({command!r})\nexcept SystemExit: pass\n"
        "heavy = {'sqlite3', 'rich', 'asyncio', 'docker', 'kubernetes', 'requests'}\n"
        "print(*heavy & sys.modules.keys(), file=sys.stderr)\n"
    )
    if command == ["--help"]:
        script = script.replace("'sqlite3', ", "")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=cli.env, check=True)
    assert done.stderr.strip() == ""


def test_doctor_fails_for_a_broken_plugin_and_says_what_to_do(cli):
    """Exit code 0 while nothing fails, 1 otherwise, each broken plugin a finding with a remedy."""
    assert cli("doctor").returncode == 0
    cli.add_plugin("resources", "broken", "no_such_module:Manager")
    done = cli("doctor", "--json")
    assert done.returncode == 1
    (finding,) = [each for each in json.loads(done.stdout) if each["level"] == "fail"]
    assert "no_such_module" in finding["message"]
    assert "test-broken" in finding["remedy"]


def test_doctor_looks_at_the_site_and_its_backends(cli):
    """With --site the site's own findings follow the plugins'; a backend that cannot be set up is one."""
    findings = cli.json("doctor", "--site", cli.site())
    assert {"site", "disk"} <= {each["subject"] for each in findings}
    done = cli("doctor", "--site", cli.site(backends={BACKEND: {"no_such_option": 1}}))
    assert done.returncode == 1
    assert "no_such_option" in done.stdout


def test_a_wrong_site_file_is_told_whole(cli):
    """Every mistake in a file is told at once, each on its own line with the file's name, and exit code is 2."""
    path = cli.folder / "site.yaml"
    path.write_text("nam: x\nbackends: {}\nmax_jobs: many\n")
    for command in (["ps"], ["doctor"], ["gc"], ["wait", "x"]):
        done = cli(*command, "--site", path)
        assert done.returncode == 2
        lines = [line for line in done.stderr.splitlines() if "site.yaml" in line]
        assert [any(word in line for line in lines) for word in ("'name'", "backends", "max_jobs")] == [True] * 3
        assert "Traceback" not in done.stderr
        assert not done.stdout


def test_an_unexpected_error_is_one_line_unless_asked(cli):
    """What nobody foresaw is exit code 70 and a line that says how to see more."""
    script = (
        "from siteward.cli import main, app\n"
        "def bad(*_): raise ZeroDivisionError('oh')\n"
        "app.Application.resolve_command = bad\nmain(['plugins'])\n"
    )
    for debug in ("0", "1"):
        done = subprocess.run(
            [PYTHON, "-c", script],
            capture_output=True,
            text=True,
            env={**cli.env, "SITEWARD_DEBUG": debug},
        )
        assert done.returncode == 70
        assert "unexpected ZeroDivisionError: oh" in done.stderr
        assert ("Traceback" in done.stderr) == (debug == "1")
        assert ("SITEWARD_DEBUG=1" in done.stderr) == (debug == "0")


def test_a_reader_that_leaves_is_no_error(cli):
    """`siteward … | head` says nothing on stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    done = cli("schema", "site", stdout=writer, stderr=subprocess.PIPE, capture_output=False)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141


def test_it_works_without_a_home(cli):
    """Neither a missing HOME nor an ASCII terminal is an obstacle."""
    env = {key: value for key, value in cli.env.items() if key != "HOME"}
    done = cli("ps", "--json", "--site", cli.site(), env={**env, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_ps_needs_no_working_backend_and_creates_nothing(cli):
    """`ps` only reads: a broken backend does not stop it, and a site that has had no job has no state afterwards."""
    site = cli.site(backends={"no-such-backend": {"wrong": 1}}, default_backend=None)
    assert cli.json("ps", "--all", "--site", site) == []
    assert not (cli.folder / "state").exists()


@pytest.mark.parametrize("command", ["status", "events", "logs", "wait", "stop"])
def test_an_unknown_id_is_exit_code_2(cli, command):
    done = cli(command, "job-1234", "--site", cli.site())
    assert done.returncode == 2
    assert "no job 'job-1234'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (59.9, "59s"), (60, "1m"), (7199, "1h"), (86400, "1d"), (8.64e6, "100d")]
)
def test_ages_read_as_people_say_them(seconds, text):
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"plain\n", "plain"),
        (b"\x1b[31mred\x1b[0m\n", "\x1b[31mred\x1b[0m\x1b[0m"),
        (b"\x1b[2J\x1b]0;title\x07\x1bcgone\x08\n", "gone"),
        (b"10%\r50%\r100%\r\n", "100%"),
        (b"\xff\tx", "\ufffd\tx"),
        (b"\x9b31m\n", "\ufffd31m"),
    ],
)
def test_output_on_a_terminal_commands_nothing(line, text):
    """Colours pass; whatever else a terminal obeys does not, and of a progress bar the last state stays."""
    assert visible(line) == text


def test_cells_are_one_line_of_plain_text():
    assert one_line("a\n\x1b[31mb\tc\x1b[2J ") == "a b c"


def test_tables_align_wide_characters(capsys):
    print_table(["site", "state"], [["診療所", "ok"], ["site", "fail"]])
    assert capsys.readouterr().out == "SITE    STATE\n診療所  ok\nsite    fail\n"


@pytest.mark.parametrize(
    ("site", "same"), [("site-1", True), ("Site 1", True), (".", False), ("..", False), ("a.log", False)]
)
def test_a_sites_folder_stays_inside(site, same):
    """A name that means something else in a file system, or another site's log, is replaced by a safe one."""
    assert (file_name(site) == site) == same
    assert file_name(site) not in (".", "..")


def test_a_terminal_gets_colours_unless_no_color_is_set(cli):
    """On a terminal states are coloured; NO_COLOR turns that off."""
    for more, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        ours, theirs = pty.openpty()
        cli("plugins", stdout=theirs, capture_output=False, env={**cli.env, "TERM": "xterm", "COLUMNS": "40", **more})
        os.close(theirs)
        assert (b"\x1b[" in os.read(ours, 65536)) == coloured
        os.close(ours)
