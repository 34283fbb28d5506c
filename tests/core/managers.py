"""A small resource manager for tests: some units, a log of every call, and faults that a test puts in.

With ``most`` it says of a job that asks for more that waiting cannot help.
"""

from siteward import Allocation, Refusal, Reservation, ResourceError, hookimpl


class Units:
    """Hands out ``free`` units of one kind; ``log`` has (hook, token or job id) in order."""

    api = 1
    free = 1
    notes = ()
    to_free = True
    most = None

    def __init__(self, context, options):
        self.kind = type(self)

    def step(self, hook, subject):
        self.kind.log.append((hook, subject))
        fault = self.kind.faults.get(hook)
        if fault is not None:
            raise fault

    @hookimpl
    def siteward_check_resources(self, requirement, job_id):
        self.step("check", job_id)
        wanted = requirement.get("units", 1)
        if self.kind.most is not None and wanted > self.kind.most:
            words = f"{wanted} units asked, there are {self.kind.most}"
            return Refusal(reason="too many", message=words, permanent=True)
        if wanted > self.kind.free:
            return Refusal(reason="units", message=f"{wanted} units asked, {self.kind.free} free")
        self.kind.free -= wanted
        self.kind.held[f"t-{job_id}"] = wanted
        self.kind.asked = requirement
        return Reservation(token=f"t-{job_id}", units={"units": wanted}, notes=self.kind.notes)

    @hookimpl
    def siteward_cancel_resources(self, token):
        self.step("cancel", token)
        self.back(token)

    @hookimpl
    def siteward_allocate_resources(self, token, job_id):
        self.step("allocate", token)
        if token not in self.kind.held:
            raise ResourceError(f"unknown token {token}")
        return Allocation(
            token=token,
            env={"UNITS": str(self.kind.held[token]), "LEVEL": "allocation", "DEVICE": "0"},
            devices=["u0"],
            device_variables=["DEVICE"],
            to_free=self.kind.to_free,
        )

    @hookimpl
    def siteward_free_resources(self, token):
        self.step("free", token)
        self.back(token)

    def back(self, token):
        self.kind.free += self.kind.held.pop(token, 0)

    @hookimpl
    def siteward_report_resources(self):
        return {"free": self.kind.free}


def units(free=1, faults=(), most=None):
    """Return a manager class with a state of its own, as what ``Place(..., plugins=)`` and ``resources=`` take."""
    fields = {"free": free, "most": most, "log": [], "held": {}, "faults": dict(faults), "__module__": __name__}
    return type("Units", (Units,), fields)


def with_units(manager):
    """Return the fields of a place that uses this manager."""
    return {"resources": {"units": {}}, "plugins": [("siteward.resources", "units", manager)]}


class DiskUnits:
    """One unit, held by a file: it outlives the process that took it."""

    api = 1
    fault = staticmethod(lambda hook: None)

    def __init__(self, context, options):
        self.folder = context.directory

    def held(self):
        return sorted(path.name for path in self.folder.glob("t-*"))

    @hookimpl
    def siteward_check_resources(self, requirement, job_id):
        if self.held():
            return Refusal(reason="units", message="the unit is taken")
        (self.folder / f"t-{job_id}").touch()
        return Reservation(token=f"t-{job_id}")

    @hookimpl
    def siteward_cancel_resources(self, token):
        (self.folder / token).unlink(missing_ok=True)

    @hookimpl
    def siteward_allocate_resources(self, token, job_id):
        self.fault("allocate")
        return Allocation(token=token)

    @hookimpl
    def siteward_free_resources(self, token):
        self.fault("free")
        (self.folder / token).unlink(missing_ok=True)
        self.fault("free done")

    @hookimpl
    def siteward_report_resources(self):
        return {"held": self.held()}
