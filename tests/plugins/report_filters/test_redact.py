"""`redact`: what leaves a site holds no secret, path or address, whatever a job prints."""

import base64
from urllib.parse import quote

import attrs
import pytest

from siteward import FailureReport, FileError, Job, Plugins, Site, SiteFile
from siteward_report_filters import redact, teardown_noise
from siteward_report_filters.hiding import hide_e_mails, hide_paths, hide_secrets

PATHS = {
    "see /data/ward-3/x.dcm now": "see [path] now",
    "open('/data/my site/p 1.dcm')": "open('[path]')",
    'File "/home/a b/c.py", line 3': 'File "[path]", line 3',
    "--data=/x/y": "--data=[path]",
    "gcc -I/usr/include": "gcc -I[path]",
    "cat: /data/x: Permission denied": "cat: [path] Permission denied",
    "PATH=/a/b:/c/d": "PATH=[path]",
    "file:///data/x": "file://[path]",
    "//data//x": "[path]",
    "~/x and ~bob/y": "[path] and [path]",
    r"C:\Users\bob\x": "[path]",
    r"\\server\share": "[path]",
    "[secret]/foo": "[secret][path]",
    "https://host.org/a/b": "https://host.org/a/b",
    "and/or a/b 1 / 2 ./x/y ../z": "and/or a/b 1 / 2 ./x/y ../z",
    "/": "/",
}
E_MAILS = {
    "ask bob.s+x@uni-x.example.org!": "ask [e-mail]!",
    "müller@klinik.example": "[e-mail]",
    "https://user:pw@host/x": "https://[secret]@host/x",
    "a @ b, x@y": "a @ b, x@y",
}
SECRET = 's3cret+/"x\n'
FORMS = {
    "as it is": SECRET,
    "without its newline": SECRET.strip(),
    "in a repr": repr(SECRET.strip())[1:-1],
    "in JSON": 's3cret+/\\"x',
    "percent-encoded": quote(SECRET.strip(), safe=""),
    "in base64": base64.b64encode(SECRET.strip().encode()).decode(),
    "in base64 for addresses": base64.urlsafe_b64encode(SECRET.strip().encode()).decode(),
}
HOSTILE = ["/", "~", "a@", "'/", "://", "\\\\", "a.b@", "a@b.", '"~/', "x/"]


@pytest.mark.parametrize(("text", "hidden"), PATHS.items(), ids=range(len(PATHS)))
def test_paths(text, hidden):
    """Absolute paths go, quoted ones with their spaces; relative ones and web addresses stay."""
    assert hide_paths(text) == hidden


@pytest.mark.parametrize(("text", "hidden"), E_MAILS.items(), ids=range(len(E_MAILS)))
def test_e_mails(text, hidden):
    """Addresses of people go, and logins in web addresses."""
    assert hide_e_mails(text) == hidden


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_secret_is_hidden_in_every_form(form):
    """As it is, and as programs print it."""
    hidden = hide_secrets(f"token <{form}> sent", [SECRET])
    assert hidden.startswith("token <[secret]")
    assert "3cret" not in hidden
    assert form.strip() not in hidden


def test_of_secrets_within_each_other_the_longer_goes_first():
    """Nothing of it stays."""
    assert hide_secrets("abcdefgh abcd", ["abcd", "abcdefgh"]) == "[secret] [secret]"


def test_each_line_of_a_secret_is_hidden():
    """A key in several lines is recognised by one of them."""
    assert hide_secrets("got 'line-two'", ["line-one\nline-two\n"]) == "got '[secret]'"


def test_what_is_left_of_a_secret_where_a_log_begins_is_hidden():
    """The log's tail may begin in its middle."""
    assert hide_secrets("ret-key-1 denied", ["my-secret-key-1"], cut=True) == "[secret] denied"
    assert hide_secrets("-1 denied", ["my-secret-key-1"], cut=True) == "-1 denied"


def test_very_short_secrets_are_not_looked_for():
    """Or else every `a` would go."""
    assert hide_secrets("a cat", ["a", ""]) == "a cat"


@pytest.mark.parametrize("bit", HOSTILE)
def test_no_text_takes_for_ever(bit):
    """A hostile job's output is read in one go; with a quadratic expression this would take hours."""
    text = bit * (2_000_000 // len(bit))
    assert hide_paths(hide_e_mails(text)) is not None


@pytest.fixture
def open_site(tmp_path):
    """Open a site with both filters, whose options are given."""
    opened = []

    def open_one(secrets=None, **blocks):
        plugins = Plugins()
        plugins.add("siteward.plugins", "redact", redact.Redact)
        plugins.add("siteward.plugins", "teardown_noise", teardown_noise.TeardownNoise)
        data = {"name": "clinic", "backends": {"process": {}}, "default_backend": "process", "plugins": blocks}
        data |= {"state_dir": "state", "job_secrets": secrets or {}}
        opened.append(Site(SiteFile.from_mapping(data, base_dir=tmp_path), plugins=plugins))
        return opened[-1]

    yield open_one
    for site in opened:
        site.close()


def failed(site, script, **more):
    """Run a shell script that fails; return its result."""
    data = {"name": "j", "command": ["sh", "-c", script]}
    return site.launch(Job.from_mapping({**data, **more})).wait(60)


def test_a_real_jobs_report_is_clean_and_the_sites_own_result_is_not(open_site, monkeypatch):
    """Message and log of the report are filtered; the log and the result at the site stay as they are."""
    monkeypatch.setenv("FED_TOKEN", "tok-12345")
    site = open_site(secrets={"t": {"env": "FED_TOKEN"}}, redact={"patterns": ["patient-[0-9]+"]})
    script = "echo $T; echo /data/x; echo me@here.org; echo patient-17; exit 101"
    result = failed(site, script, secrets={"T": "t"})
    assert result.report.log_tail.split() == ["[secret]", "[path]", "[e-mail]", "[redacted]"]
    assert result.log_tail.split() == ["tok-12345", "/data/x", "me@here.org", "patient-17"]
    assert result.report.reportable


def test_it_needs_no_block(open_site):
    """Installed is enough."""
    assert failed(open_site(), "echo /data/x; exit 101").report.log_tail == "[path]"


def test_each_kind_can_be_left_as_it_is(open_site, monkeypatch):
    """Options turn off what a site does not mind."""
    monkeypatch.setenv("FED_TOKEN", "tok-12345")
    options = {"secrets": False, "paths": False, "e_mails": False}
    site = open_site(secrets={"t": {"env": "FED_TOKEN"}}, redact=options)
    assert failed(site, "echo tok-12345 /x a@b.org; exit 101").report.log_tail == "tok-12345 /x a@b.org"


def test_a_secret_that_cannot_be_read_withholds_every_text(open_site):
    """What is not known cannot be hidden; the report says so, and code and reason survive."""
    report = failed(open_site(secrets={"t": {"env": "NOT_SET_ANYWHERE"}}), "echo hello; exit 101").report
    assert (report.code, report.reason, report.log_tail) == (101, "Error", "")
    assert report.message == "withheld: the secret 't' cannot be read, so that it cannot be hidden"


def test_every_mistake_in_the_blocks_is_told_at_once(open_site):
    """With the path in the site file; the site does not open with half a filter."""
    with pytest.raises(FileError) as caught:
        open_site(redact={"patterns": ["(", "x*"], "pathes": True}, teardown_noise={"unfinished": "tell"}, reduct={})
    problems = {problem.path: problem for problem in caught.value.problems}
    assert set(problems) == {
        "plugins.redact.patterns[0]",
        "plugins.redact.patterns[1]",
        "plugins.redact.pathes",
        "plugins.teardown_noise.unfinished",
        "plugins.reduct",
    }
    assert problems["plugins.redact.pathes"].suggestion == "paths"
    assert "did you mean 'redact'" in str(problems["plugins.reduct"])


def test_redact_leaves_the_rest_of_a_report_alone(open_site):
    """Code, reason and reportable are not its business."""
    report = failed(open_site(), "exit 102").report
    whole = FailureReport(
        site="clinic", job_id=report.job_id, backend="process", code=102, reason="Error", reportable=True
    )
    assert attrs.evolve(report, message="", log_tail="") == whole
