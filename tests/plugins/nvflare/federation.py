"""A real FLARE federation on this machine: a server and clients in a folder, on a port of their own, with the bridge.

Every process is started here and ended by its id; nothing outside the folder is written, no network is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
DEADLINE = 120.0
ADMIN = "admin@nvidia.com"
MODULES = {True: "nvflare.private.fed.app.server.server_train", False: "nvflare.private.fed.app.client.client_train"}


def until(condition, deadline=DEADLINE, what="what the test waits for"):
    """Return what ``condition()`` gives as soon as it is true."""
    give_up = time.monotonic() + deadline
    while not (found := condition()):
        if time.monotonic() > give_up:
            raise AssertionError(f"{what} did not happen in {deadline} s")
        time.sleep(0.1)
    return found


def free_port():
    """Return a port that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Federation:
    """``server`` and ``clients``: each has a startup kit in ``kits/<name>`` and a siteward site in ``sites/<name>``.

    ``host`` is this machine's address for all of them; jobs of the clients in ``remote`` reach their parents there too.
    """

    bin = BIN

    def __init__(self, folder, clients=("site-1", "site-2"), *, host="localhost", remote=()):
        self.folder = Path(folder)
        self.host, self.remote = host, tuple(remote)
        self.clients = tuple(clients)
        self.names = ("server", *self.clients)
        self.parents = {}
        self.admin = None
        (self.folder / "home").mkdir(parents=True)
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("NVFL", "PYTHON", "COV_"))},
            "HOME": str(self.folder / "home"),
            "NVFLARE_POC_WORKSPACE": str(self.folder / "poc"),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    # --- setting up ---

    def prepare(self):
        """Have FLARE make the startup kits."""
        participants = [
            {
                "name": "server",
                "type": "server",
                "org": "nvidia",
                "fed_learn_port": free_port(),
                "default_host": self.host,
            }
        ]
        participants += [{"name": ADMIN, "type": "admin", "org": "nvidia", "role": "project_admin"}]
        for name in self.clients:
            listening = {"scheme": "tcp", "default_host": self.host, "port": free_port(), "connection_security": "mtls"}
            more = {"listening_host": listening} if name in self.remote else {}
            participants += [{"name": name, "type": "client", "org": "nvidia", **more}]
        project = {
            "api_version": 3,
            "name": "project",
            "description": "siteward",
            "participants": participants,
            "builders": [
                {
                    "path": "nvflare.lighter.impl.workspace.WorkspaceBuilder",
                    "args": {"template_file": ["master_template.yml"]},
                },
                {"path": "nvflare.lighter.impl.static_file.StaticFileBuilder", "args": {"config_folder": "config"}},
                {"path": "nvflare.lighter.impl.cert.CertBuilder"},
                {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
            ],
        }
        file = self.folder / "project.yml"
        file.write_text(yaml.safe_dump(project))
        if self.host == "localhost":
            self.run(BIN / "nvflare", "poc", "prepare", "-i", file)
        else:  # a POC's server is always at localhost
            self.run(BIN / "nvflare", "provision", "-p", file, "-w", self.folder / "poc", "--force")
        made = self.folder / "poc" / "project" / "prod_00"
        assert made.is_dir(), list(self.folder.glob("poc/*/*"))
        made.rename(self.folder / "kits")
        local = self.kit("server") / "local"
        own = local / "resources.json"
        text = (own if own.exists() else local / "resources.json.default").read_text()
        for storage in (str(self.folder / "poc"), "/tmp/nvflare"):
            text = text.replace(storage, str(self.folder / "storage"))
        own.write_text(text)

    def run(self, *command):
        """Run a command to its end; AssertionError with its output when it fails."""
        done = subprocess.run(
            [str(word) for word in command],
            env=self.env,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def kit(self, name):
        """Return a participant's startup kit."""
        return self.folder / "kits" / name

    def site_file(self, name, **fields):
        """Write a site's file; by default every job is a process."""
        path = self.folder / "sites" / name / "site.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            yaml.safe_dump(
                {
                    "name": name,
                    "backends": {"process": {}},
                    "default_backend": "process",
                    "state_dir": "state",
                    "grace": 3,
                    **fields,
                }
            )
        )
        return path

    def install(self, name, **fields):
        """Put the bridge into a kit."""
        return self.run(BIN / "siteward-nvflare", "install", self.kit(name), "--site", self.site_file(name, **fields))

    # --- running ---

    def start(self):
        """Start the server and all clients, and log an admin in."""
        for name in self.names:
            self.start_parent(name)
        self.login()
        until(lambda: set(self.ask("info")) == set(self.clients), what="all clients at the server")

    def start_parent(self, name):
        """Start one parent as its start script would, but in the foreground of a session of its own."""
        kit = self.kit(name)
        options = [f"uid={name}"] if name != "server" else []
        command = [
            sys.executable,
            "-u",
            "-m",
            MODULES[name == "server"],
            "-m",
            kit,
            "-s",
            f"fed_{'server' if name == 'server' else 'client'}.json",
        ]
        command += ["--set", "secure_train=true", *options, "org=nvidia", "config_folder=config"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.parents[name] = subprocess.Popen(
                [str(word) for word in command],
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def login(self):
        """Start an admin; it waits for the server."""
        command = [sys.executable, str(HERE / "admin.py"), str(self.kit(ADMIN)), ADMIN]
        with (self.folder / "admin.log").open("ab") as log:
            self.admin = subprocess.Popen(
                command,
                env=self.env,
                cwd=self.folder,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert json.loads(self.admin.stdout.readline() or "{}").get("answer") == "ready", self.tail("admin")

    def ask(self, *request):
        """Ask the admin."""
        self.admin.stdin.write(json.dumps(request) + "\n")
        self.admin.stdin.flush()
        answer = json.loads(self.admin.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["answer"]

    def log(self, name):
        """Return what a parent has printed so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def tail(self, name, lines=40):
        """Return the end of it."""
        return "\n".join(self.log(name).splitlines()[-lines:])

    # --- jobs ---

    def submit(self, name="fedavg", *, rounds=1, train_args="", clients=None, **meta):
        """Submit a federated averaging job and return its id."""
        return self.ask(
            "submit",
            str(
                write_job(
                    self.folder / "jobs" / name,
                    clients=len(clients or self.clients),
                    rounds=rounds,
                    train_args=train_args,
                    **meta,
                )
            ),
        )

    def status(self, job_id):
        """Return a job's status as the server has it."""
        return self.ask("meta", job_id)["status"]

    def finish(self, job_id, deadline=DEADLINE):
        """Wait for a job's end and return its status."""
        ended = lambda: (now := self.status(job_id)).startswith("FINISHED") and now  # noqa: E731
        return until(ended, deadline, f"the end of {job_id}, which is {self.status(job_id)}")

    def siteward(self, name, *command):
        """Return what siteward's command line says of a site, as data."""
        return json.loads(
            self.run(BIN / "siteward", *command, "--json", "--site", self.folder / "sites" / name / "site.yaml")
        )

    def row(self, name, job_id):
        """Return what siteward says of a job of FLARE's at a site."""
        return next(row for row in self.siteward(name, "ps", "--all") if row["job_id"].startswith(job_id))

    # --- the end ---

    def close(self):
        """End every process that was started here, and the keepers and jobs of the sites."""
        ours = [
            psutil.Process(each.pid) for each in (self.admin, *self.parents.values()) if each and each.poll() is None
        ]
        mark = str(self.folder)
        for each in psutil.process_iter(["pid", "cmdline", "cwd"]):
            words = " ".join(each.info["cmdline"] or ())
            if each.pid != os.getpid() and (mark in words or (each.info["cwd"] or "").startswith(mark)):
                ours.append(each)
        for each in {each.pid: each for each in ours}.values():
            try:
                each.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                pass
        for each in (self.admin, *self.parents.values()):
            if each is not None:
                each.wait(30)
                for stream in (each.stdin, each.stdout):
                    if stream is not None:
                        stream.close()


def write_job(folder, *, clients, rounds, train_args="", **meta):
    """Write a FLARE job: numpy federated averaging with ``train.py`` as its own code."""
    shutil.rmtree(folder, ignore_errors=True)
    config, custom = folder / "app" / "config", folder / "app" / "custom"
    config.mkdir(parents=True)
    custom.mkdir()
    shutil.copy(HERE / "train.py", custom)
    model = {
        "id": "persistor",
        "path": "nvflare.app_common.np.np_model_persistor.NPModelPersistor",
        "args": {"model": [[1.0, 2.0], [3.0, 4.0]]},
    }
    workflow = {
        "id": "controller",
        "path": "nvflare.app_common.workflows.fedavg.FedAvg",
        "args": {"num_clients": clients, "num_rounds": rounds},
    }
    executor = {
        "path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
        "args": {
            "execution_mode": "in_process",
            "task_script_path": "train.py",
            "task_script_args": train_args,
            "params_exchange_format": "numpy",
        },
    }
    empty = {"format_version": 2, "task_data_filters": [], "task_result_filters": []}
    files = {
        config / "config_fed_server.json": {**empty, "workflows": [workflow], "components": [model]},
        config / "config_fed_client.json": {
            **empty,
            "executors": [{"tasks": ["*"], "executor": executor}],
            "components": [],
        },
        folder / "meta.json": {
            "name": folder.name,
            "resource_spec": {},
            "min_clients": clients,
            "deploy_map": {"app": ["@ALL"]},
            **meta,
        },
    }
    for path, data in files.items():
        path.write_text(json.dumps(data, indent=2))
    return folder
