"""Whatever the order of steps, expiry and crashes: never two holders, never more or fewer units than exist."""

import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from siteward import Refusal, ResourceError

from .helpers import Host, gpus
from .recorded import eight_gpus, pynvml

COUNT, MEMORY, PERIOD = 3, 16, 30.0
SITES = st.sampled_from(["one", "two"])


class Steps(RuleBasedStateMachine):
    """What all managers are put through: two sites' worth of processes, a clock, and jobs that vanish."""

    tokens = Bundle("tokens")

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.host = Host(Path(self.folder.name))
        self.clock = 1000.0
        self.gone = set()
        self.reserved = {}
        self.held = {}
        self.count = 0
        self.patches = [
            mock.patch.dict("sys.modules", pynvml=pynvml(eight_gpus("made up", MEMORY * 1024)[:COUNT])),
            mock.patch("siteward_gpu_resources.leases.now", lambda: self.clock),
            mock.patch(
                "siteward_gpu_resources.holders.Holder.is_gone",
                lambda holder, _token, **_: holder.job_id in self.gone,
            ),
        ]
        for patch in self.patches:
            patch.start()

    @initialize()
    def open_sites(self):
        self.managers = {site: self.host.manager(site=site, expiration_period=PERIOD) for site in ("one", "two")}

    def teardown(self):
        try:
            for token, (site, *_) in {**self.reserved, **self.held}.items():
                self.managers[site].siteward_free_resources(token)
            manager = self.host.manager()
            assert len(manager.siteward_check_resources(gpus(COUNT), "last").units) == COUNT
        finally:
            for patch in self.patches:
                patch.stop()
            self.folder.cleanup()

    # --- the model ---

    def expire(self):
        self.reserved = {token: each for token, each in self.reserved.items() if each[3] > self.clock}

    def used(self):
        self.expire()
        used = {}
        for _site, job, units, *_ in (*self.reserved.values(), *self.held.values()):
            if job not in self.gone:
                for key, amount in units.items():
                    used.setdefault(key, []).append(amount)
        return used

    # --- the steps ---

    @rule(target=tokens, site=SITES, count=st.integers(1, COUNT), memory=st.sampled_from([None, 4, 10, 16]))
    def check(self, site, count, memory):
        before = self.used()
        self.count += 1
        job = f"job-{self.count}"
        answer = self.managers[site].siteward_check_resources(gpus(count, memory), job)
        keys = [card.uuid for card in eight_gpus()[:COUNT]]
        room = [key for key in keys if sum(before.get(key, [])) + (memory or MEMORY) <= MEMORY]
        if memory is None:
            room = [key for key in room if not before.get(key)]
        if isinstance(answer, Refusal):
            assert len(room) < count
            return multiple()
        assert list(answer.units) == room[:count]
        self.reserved[answer.token] = (site, job, dict(answer.units), self.clock + PERIOD)
        return answer.token, site, job

    @rule(token=tokens)
    def allocate(self, token):
        token, site, job = token
        self.expire()
        if token in self.reserved or (token in self.held and job not in self.gone):
            allocation = self.managers[site].siteward_allocate_resources(token, job)
            units = (self.reserved.pop(token, None) or self.held[token])[2]
            self.held[token] = (site, job, units)
            assert sorted(allocation.devices) == sorted(units)
        elif token not in self.held:
            self.fails(lambda: self.managers[site].siteward_allocate_resources(token, job))

    @rule(token=tokens)
    def cancel(self, token):
        token, site, job = token
        self.expire()
        if token in self.held and job not in self.gone:
            self.fails(lambda: self.managers[site].siteward_cancel_resources(token))
        elif token not in self.held:
            self.managers[site].siteward_cancel_resources(token)
            self.reserved.pop(token, None)

    @rule(token=consumes(tokens), again=st.booleans())
    def free(self, token, again):
        token, site, _job = token
        for _ in range(1 + again):
            self.managers[site].siteward_free_resources(token)
        self.reserved.pop(token, None)
        self.held.pop(token, None)

    @rule(token=tokens)
    def use_a_wrong_token(self, token):
        token, site, job = token
        other = self.managers["two" if site == "one" else "one"]
        wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
        for manager, bad in ((other, token), (self.managers[site], wrong)):
            self.fails(lambda: manager.siteward_free_resources(bad))
            self.fails(lambda: manager.siteward_cancel_resources(bad))
            self.fails(lambda: manager.siteward_allocate_resources(bad, job))

    @rule(seconds=st.sampled_from([1.0, 20.0, 31.0]))
    def wait(self, seconds):
        self.clock += seconds

    @rule(site=SITES)
    def crash(self, site):
        """The process dies; the next one opens the site."""
        self.managers[site] = self.host.manager(site=site, expiration_period=PERIOD)

    @rule(token=tokens)
    def lose_the_job(self, token):
        """It ends, with nobody there to free what it held."""
        if token[0] in self.held:
            self.gone.add(token[2])

    def fails(self, call):
        try:
            call()
        except ResourceError:
            return
        raise AssertionError("it should have failed")

    @invariant()
    def nobody_has_what_another_has(self):
        for amounts in self.used().values():
            assert sum(amounts) <= MEMORY

    @invariant()
    def the_report_is_true(self):
        if not hasattr(self, "managers"):
            return
        used = self.used()
        for facts in self.managers["one"].siteward_report_resources().values():
            amounts = used.get(facts["uuid"], [])
            assert len(facts["holders"]) == len(amounts)
            assert facts["free"] == f"{MEMORY - sum(amounts):g} GiB"


UNITS = {"licence": ("a", "b", "c"), "port": (8000, 8001)}
TOTALS = {"num_of_cpus": 3, "memory": 4 * 2**30}


class Counts(RuleBasedStateMachine):
    """A list of units and counted CPUs, side by side: what is out and what is free make up what there is."""

    tokens = Bundle("tokens")

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.host = Host(Path(self.folder.name))
        self.out = {}
        self.count = 0
        self.open()

    @rule()
    def open(self):
        """Another process opens the site."""
        self.managers = {
            "list": self.host.manager("list", units=UNITS),
            "cpu_memory": self.host.manager("cpu_memory", num_of_cpus=3, memory="4Gi"),
        }

    def teardown(self):
        self.folder.cleanup()

    def free(self, kind):
        found = {}
        for each, units in self.out.values():
            if each == kind:
                for key, had in units.items():
                    found[key] = found.get(key, 0) + (len(had) if kind == "list" else had)
        total = {key: len(units) for key, units in UNITS.items()} if kind == "list" else TOTALS
        return {key: most - found.get(key, 0) for key, most in total.items()}

    def ask(self, kind, asked):
        self.count += 1
        answer = self.managers[kind].siteward_check_resources(asked, f"job-{self.count}")
        free = self.free(kind)
        fits = all(count <= free[key] for key, count in asked.items())
        assert isinstance(answer, Refusal) is not fits
        if not fits:
            return multiple()
        self.out[answer.token] = (kind, dict(answer.units))
        return answer.token, kind, f"job-{self.count}"

    @rule(target=tokens, licences=st.integers(0, 3), ports=st.integers(0, 2))
    def take_units(self, licences, ports):
        return self.ask("list", {"licence": licences, "port": ports})

    @rule(target=tokens, cpus=st.integers(1, 3), memory=st.integers(1, 4))
    def take_cpus(self, cpus, memory):
        return self.ask("cpu_memory", {"num_of_cpus": cpus, "memory": memory * 2**30})

    @rule(token=tokens, again=st.booleans())
    def allocate(self, token, again):
        token, kind, job = token
        if token in self.out:
            for _ in range(1 + again):
                self.managers[kind].siteward_allocate_resources(token, job)

    @rule(token=consumes(tokens), again=st.booleans())
    def give_back(self, token, again):
        token, kind, _job = token
        for _ in range(1 + again):
            self.managers[kind].siteward_free_resources(token)
        self.out.pop(token, None)

    @invariant()
    def nothing_is_had_twice(self):
        for kind, key in (("list", "licence"), ("list", "port")):
            had = [unit for each, units in self.out.values() if each == kind for unit in units.get(key, ())]
            assert len(set(had)) == len(had)

    @invariant()
    def the_report_is_true(self):
        report = self.managers["cpu_memory"].siteward_report_resources()
        assert {key: facts["free"] for key, facts in report.items()} == self.free("cpu_memory")
        report = self.managers["list"].siteward_report_resources()
        counted = {key: list(units.values()).count("free") for key, units in report.items()}
        assert counted == self.free("list")


SETTINGS = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
TestGpu = Steps.TestCase
TestGpu.settings = SETTINGS
TestCounts = Counts.TestCase
TestCounts.settings = SETTINGS
