"""Into a kit and out of it again."""

import json
import shutil

import pytest
from click.testing import CliRunner

from siteward_nvflare.cli import main
from siteward_nvflare.kit import Kit, KitError, find_kit

SITE = "name: site-1\nbackends: {process: {}}\ndefault_backend: process\nstate_dir: state\n"
LAUNCHER = {"id": "process_launcher", "path": "nvflare.x.ClientProcessJobLauncher", "args": {}}
MANAGER = {"id": "resource_manager", "path": "nvflare.x.GPUResourceManager", "args": {"num_of_gpus": 0}}
CONSUMER = {"id": "resource_consumer", "path": "nvflare.x.GPUResourceConsumer", "args": {}}
OTHER = {"id": "other", "path": "x.Other"}


@pytest.fixture
def kit(tmp_path):
    """A client's kit as it is delivered, and a site file beside it."""
    folder = tmp_path / "kit"
    (folder / "startup").mkdir(parents=True)
    (folder / "local").mkdir()
    (folder / "startup" / "fed_client.json").write_text("{}")
    default = {"format_version": 2, "class_allow_list": ["a"], "components": [MANAGER, CONSUMER, LAUNCHER, OTHER]}
    (folder / "local" / "resources.json.default").write_text(json.dumps(default, indent=4))
    (tmp_path / "site.yaml").write_text(SITE)
    return folder


def run(*words, code=0):
    """Run the command and return what it says."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def contents(folder):
    """Return every file's bytes by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def components(kit, name="resources.json"):
    """Return a resources file's components by id."""
    return {each["id"]: each for each in json.loads((kit / "local" / name).read_text())["components"]}


def install(kit, *more):
    """Install into a kit."""
    return run("install", kit, "--site", kit.parent / "site.yaml", *more)


def test_installing_replaces_launcher_and_resource_manager(kit):
    """All else stays; what comes is read by the parent alone."""
    install(kit)
    assert components(kit) == {"other": OTHER}
    assert json.loads((kit / "local" / "resources.json").read_text())["class_allow_list"] == ["a"]
    ours = components(kit, "siteward__p_resources.json")
    assert ours["siteward_launcher"] == {
        "id": "siteward_launcher",
        "path": "siteward_nvflare.ClientSitewardLauncher",
        "args": {"site_file": str(kit.parent / "site.yaml")},
    }
    assert set(ours) == {"siteward_launcher", "resource_manager", "resource_consumer"}


def test_a_server_gets_a_server_s_launcher(kit):
    """It has no resource manager; its other components stay."""
    (kit / "startup" / "fed_client.json").rename(kit / "startup" / "fed_server.json")
    (kit.parent / "site.yaml").write_text(SITE.replace("{process: {}}", "{process: {}, docker: {}}"))
    install(kit, "--shared", "docker", "--shared", "process")
    ours = components(kit, "siteward__p_resources.json")
    assert set(ours) == {"siteward_launcher"}
    assert ours["siteward_launcher"]["path"] == "siteward_nvflare.ServerSitewardLauncher"
    assert ours["siteward_launcher"]["args"]["shared"] == ["docker", "process"]
    assert "resource_manager" in components(kit)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("times", [1, 2])
def test_uninstalling_leaves_the_kit_as_it_was(kit, own, times):
    """Byte for byte, with and without a resources.json of its own, however often it was installed."""
    if own:
        text = (kit / "local" / "resources.json.default").read_text().replace('"a"', '"b"')
        (kit / "local" / "resources.json").write_text(text + "\n\n")
        (kit / "local" / "resources.json").chmod(0o600)
    before = contents(kit)
    for _ in range(times):
        install(kit)
    assert contents(kit) != before
    run("uninstall", kit)
    assert contents(kit) == before
    if own:
        assert (kit / "local" / "resources.json").stat().st_mode & 0o777 == 0o600


def test_edits_made_meanwhile_stay(kit):
    """What was removed goes back to its place, what an admin has added stays."""
    install(kit)
    path = kit / "local" / "resources.json"
    data = json.loads(path.read_text())
    data["components"].append({"id": "new", "path": "x.New"})
    path.write_text(json.dumps(data))
    run("uninstall", kit)
    assert [each["id"] for each in json.loads(path.read_text())["components"]] == [
        "resource_manager",
        "resource_consumer",
        "process_launcher",
        "other",
        "new",
    ]
    assert not list((kit / "local").glob("*siteward*"))


# What siteward.json holds (None: it is lost), and what is said of it.
BROKEN = {
    "lost": (None, "siteward__p_resources.json is there without siteward.json"),
    "garbage": ("{", "siteward.json cannot be read"),
    "not of this world's letters": (b"\xff", "siteward.json cannot be read"),
    "something else": ("[1]", "siteward.json is not what siteward-nvflare has written"),
    "half of it": ('{"installed": "", "had_resources_json": true, "removed": [{}]}', "siteward.json is not what"),
}


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("case", BROKEN)
def test_a_kit_that_cannot_be_taken_back_is_told_with_what_to_do(kit, case, own):
    """Every command says the same of it and writes nothing; done by hand, FLARE's launcher is back."""
    text, words = BROKEN[case]
    local = kit / "local"
    if own:
        (local / "resources.json").write_text((local / "resources.json.default").read_text() + "\n")
    before = components(kit, "resources.json.default")
    install(kit)
    if text is None:
        (local / "siteward.json").unlink()
    else:
        (local / "siteward.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    broken = contents(kit)
    whole = "resources.json.before-siteward" if own else "resources.json.default"
    rest = ["siteward__p_resources.json"] + ["siteward.json"] * (text is not None)
    rest += ["resources.json.before-siteward"] * own
    for command, code in (("check", 1), ("uninstall", 2), ("install", 2)):
        more = ("--site", kit.parent / "site.yaml") if command == "install" else ()
        said = run(command, kit, *more, code=code)
        assert words in said
        assert f"In {local}: copy {whole} to resources.json, then remove {' and '.join(rest)};" in said
    assert contents(kit) == broken
    shutil.copy(local / whole, local / "resources.json")
    for name in rest:
        (local / name).unlink()
    assert components(kit) == before
    install(kit)
    run("uninstall", kit)
    assert components(kit) == before


def test_uninstalling_names_a_resources_file_that_cannot_be_read(kit):
    """What somebody has broken meanwhile is not put together again by guessing."""
    install(kit)
    for content in (b"{", b"\xff"):
        (kit / "local" / "resources.json").write_bytes(content)
        broken = contents(kit)
        assert f"{kit / 'local' / 'resources.json'} cannot be read" in run("uninstall", kit, code=2)
        assert contents(kit) == broken


def test_what_is_no_kit_is_refused(kit, tmp_path):
    """In words, and nothing is changed."""
    with pytest.raises(KitError, match="no startup kit"):
        find_kit(tmp_path)
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "fed_admin.json").write_text("{}")
    assert "kit of a FLARE admin" in run("install", tmp_path, "--site", tmp_path / "site.yaml", code=2)
    assert "not installed" in run("uninstall", kit, code=2)
    before = contents(kit)
    (tmp_path / "site.yaml").write_text("name: site-1\n")
    assert "backends" in run("install", kit, "--site", tmp_path / "site.yaml", code=2)
    (kit / "local" / "resources.json.default").write_text("[")
    (tmp_path / "site.yaml").write_text(SITE)
    assert "cannot be read" in run("install", kit, "--site", tmp_path / "site.yaml", code=2)
    assert contents(kit).keys() == before.keys()


# What is changed in a good site file, what else is said to `install`, and the words that it answers.
REFUSED = {
    "a misspelled option": ("{process: {inherit_en: []}}", (), "did you mean 'inherit_env'?"),
    "an option's wrong value": ("{process: {inherit_env: 3}}", (), "backends.process.inherit_env: expected"),
    "a backend that is not installed": ("{process: {}, slurmx: {}}", (), "slurmx"),
    "pods without FLARE's workspace": ("{process: {}, k8s: {job_directory: none}}", (), "Set it to transfer or pvc"),
    "a shared backend that is none": (
        "{process: {}, docker: {}}",
        ("--shared", "process", "--shared", "dcoker"),
        "--shared dcoker: no such backend in the site file, which has process, docker; did you mean 'docker'?",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_installing_refuses_what_check_would_fail_on(kit, case):
    """The mistake is told before anything is written."""
    backends, more, words = REFUSED[case]
    site = kit.parent / "site.yaml"
    site.write_text(SITE.replace("{process: {}}", backends))
    before = contents(kit)
    said = run("install", kit, "--site", site, *more, code=2)
    assert words in said
    assert str(site) in said
    assert contents(kit) == before


def test_another_account_s_kit_leaves_the_state_to_that_account(kit, monkeypatch):
    """What root installs must not make a state directory that the account of FLARE's site cannot use."""
    monkeypatch.setattr(Kit, "ours", False)
    install(kit)
    assert not (kit.parent / "state").exists()


def test_checking_a_kit(kit):
    """One launcher, a site that can be opened: all is well; each lack is told with what to do."""
    assert "install" in run("check", kit, code=1)
    install(kit)
    assert "one launcher: siteward_launcher" in run("check", kit)
    site = kit.parent / "site.yaml"
    site.write_text(SITE.replace("default_backend: process\n", "max_jobs: 1\n"))
    words = run("check", kit)
    assert "default_backend" in words
    assert "max_jobs" in words
    site.write_text("name: [")
    assert "fail" in run("check", kit, code=1)
    site.write_text(SITE)
    (kit / "local" / "resources.json").unlink()  # as `nvflare deploy prepare` does
    assert "2 launchers" in run("check", kit, code=1)


# What a site file has become since installing, how check ends, and its words.
CHANGED = {
    "a misspelled option": (
        "{process: {inherit_en: []}}",
        1,
        "did you mean 'inherit_env'? FLARE's site does not start",
    ),
    "a shared backend gone": (
        "{process: {}}",
        0,
        "--shared docker: no such backend in the site file, which has process. ",
    ),
}


@pytest.mark.parametrize("case", CHANGED)
def test_checking_after_the_site_file_was_changed(kit, case):
    """Each mistake and what to do are sentences."""
    backends, code, words = CHANGED[case]
    site = kit.parent / "site.yaml"
    site.write_text(SITE.replace("{process: {}}", "{process: {}, docker: {}}"))
    install(kit, "--shared", "process", "--shared", "docker")
    site.write_text(SITE.replace("{process: {}}", backends))
    said = run("check", kit, code=code)
    assert words in said
    assert "?." not in said


KUBECONFIG = """
clusters: [{name: c, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""
NOTHING = "with job_directory: none pods do not get FLARE's workspace"
LOST, FOUND = "pods look for FLARE's parent at localhost", "pods look for FLARE's parent at 10.0.0.7"
# What the site file says of pods, FLARE's address for jobs, and what check says of it.
ADDRESSES = {
    "none": ("", None, LOST),
    "this machine's own": ("", "localhost", LOST),
    "one that pods reach": ("", "10.0.0.7", FOUND),
    "one that helps nobody": (", job_directory: none, pod_template: pod.yaml", "10.0.0.7", NOTHING),
    "pods in this machine's network": (", pod_template: {spec: {hostNetwork: true}}", None, None),
    "a template in another file": (", pod_template: pod.yaml", None, None),
}


@pytest.mark.parametrize("case", ADDRESSES)
def test_pods_have_to_find_the_parent(kit, case):
    """FLARE's own address for jobs is localhost, and a pod is another host."""
    more, host, words = ADDRESSES[case]
    site = "name: site-1\nstate_dir: state\nbackends: {k8s: {kubeconfig: kubeconfig, default_image: x}}\n"
    (kit.parent / "site.yaml").write_text(site + "default_backend: k8s\n")
    (kit.parent / "kubeconfig").write_text(KUBECONFIG)
    (kit.parent / "pod.yaml").write_text("spec: {hostNetwork: true}")
    if host is not None:
        internal = {"scheme": "tcp", "resources": {"host": host, "port": 8102, "connection_security": "mtls"}}
        (kit / "local" / "comm_config.json").write_text(json.dumps({"internal": internal}))
    install(kit)
    (kit.parent / "site.yaml").write_text(site.replace(": x", f": x{more}") + "default_backend: k8s\n")
    said = run("check", kit, code=1)
    assert [each for each in (LOST, FOUND, NOTHING) if each in said] == [words] * (words is not None)


IMAGE = "a job that names no image is refused, and most FLARE jobs name none. Set default_image in the k8s block"


@pytest.mark.parametrize("image", ["", ", default_image: x"])
def test_pods_need_an_image(kit, image):
    """A default backend without one refuses most jobs: check warns of it."""
    block = f"backends: {{k8s: {{kubeconfig: kubeconfig{image}}}}}\ndefault_backend: k8s\n"
    (kit.parent / "site.yaml").write_text(f"name: site-1\nstate_dir: state\n{block}")
    (kit.parent / "kubeconfig").write_text(KUBECONFIG)
    install(kit)
    assert (IMAGE in run("check", kit, code=1)) == (not image)


def test_checking_reads_comm_config(kit):
    """A broken one is told with its line, and nothing is guessed about where pods look for the parent."""
    install(kit)
    (kit / "local" / "comm_config.json").write_text('{\n"internal": ]\n}')
    assert "comm_config.json: line 2, column 13: " in run("check", kit, code=1)
