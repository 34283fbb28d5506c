"""Directives that write the reference from the code: options, ends, errors, promises.

- ``siteward-options:: siteward.Job``: the fields of an attrs class, from their types, defaults and ``help``.
- ``siteward-backend:: process``: the three option classes of an installed backend, and the blocks inside them.
- ``siteward-manager:: gpu``: the options of an installed resource manager.
- ``siteward-plugin:: redact``: the options of an installed plugin that acts on every job.
- ``siteward-ends::``: every reason with its state and wire code.
- ``siteward-phases::``: every phase of a job.
- ``siteward-error-tree::``: the tree at the top of ``siteward.errors``.
- ``siteward-promises::``: what the contract kit checks.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from siteward import Plugins, Reason, ended, errors
from siteward.store import Phase
from siteward.testing import BackendContract
from siteward.testing.promises import promises_of, words_of

# When each end is the answer. A reason without words here stops the build.
WHEN: Mapping[Reason, str] = {
    Reason.COMPLETED: "exit code 0",
    Reason.ERROR: "any other exit code; 101 to 104 are kept as the wire code",
    Reason.SIGNAL: "ended by a signal, or exit code 128 + a signal's number",
    Reason.ABORTED: "someone asked for its end before it had ended by itself",
    Reason.LAUNCH_FAILED: "it could not be started: the command is not there, its inputs did not come",
    Reason.IMAGE_ERROR: "the container image cannot be had",
    Reason.UNSCHEDULABLE: "the platform will never have a place for it",
    Reason.CAPACITY_TIMEOUT: "the platform had no place for it in time",
    Reason.DEADLINE_EXCEEDED: "it ran longer than its `timeout`",
    Reason.CONFIG_ERROR: "the platform refuses it as invalid",
    Reason.OOM_KILLED: "it used more memory than it was given",
    Reason.EVICTED: "the platform needed its place",
    Reason.NODE_LOST: "the machine that ran it is gone",
    Reason.DELETED: "someone removed it from its platform",
    Reason.BACKEND_LOST: "it is gone, and nobody can say how it ended",
}
# What each phase says has been done, and what the driver does next.
PHASES: Mapping[Phase, tuple[str, str]] = {
    Phase.QUEUED: ("it is checked, and waits for its turn (`max_jobs`)", "reserve resources"),
    Phase.INTENT: ("resources are reserved, the job directory is made", "ask the platform to run it"),
    Phase.LAUNCHED: ("the platform has accepted it; its ref is stored", "bring inputs there, watch it"),
    Phase.ENDED: ("its end has been seen; its result is stored", "bring home what it wrote, save its output"),
    Phase.COLLECTED: ("what it wrote is home", "free its resources"),
    Phase.FREED: ("others may have its resources", "filter its failure report, if it has one"),
    Phase.REPORTED: ("the final result is stored", "tell observers, remove it from the platform"),
    Phase.REMOVED: ("the platform has forgotten it", "nothing; `gc` deletes it some day"),
}
_PLAIN = {str: "text", bool: "true or false", int: "whole number", float: "number", Any: "anything"}


def fields_of(cls: type[Any]) -> Iterator[attrs.Attribute[Any]]:
    """Return the fields that a file's author can set."""
    return (each for each in attrs.fields(cls) if each.init and not each.metadata.get("internal"))


def type_words(type_: Any) -> str:
    """Say what a type takes, as a file's author would: ``list of text``, ``mapping of text``."""
    origin, arguments = get_origin(type_), get_args(type_)
    if type_ in _PLAIN:
        return _PLAIN[type_]
    if origin in (Union, UnionType):
        return " or ".join(type_words(each) for each in arguments if each is not type(None))
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin in (tuple, list, Sequence):
        return f"list of {type_words(arguments[0])}"
    if origin in (dict, Mapping):
        inner = type_words(arguments[1])
        return "mapping" if inner == "anything" else f"mapping of {inner.replace('mapping', 'mappings', 1)}"
    if attrs.has(type_):
        return "mapping"
    raise ExtensionError(f"siteward_docs has no words for the type {type_}")


def default_words(field: attrs.Attribute[Any]) -> str:
    """Say what a key that is left out means."""
    default = field.default
    if default is attrs.NOTHING:
        return "required"
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        if default.takes_self:
            return "made"
        default = default.factory()
    if default == sys.executable:
        return ""  # it is another at each site; the help says whose it is
    if default is None or attrs.has(type(default)) or (not default and not isinstance(default, (bool, int, float))):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, float):
        return f"`{default:g}`"
    if isinstance(default, (tuple, list)):
        return ", ".join(f"`{each}`" for each in default)
    return f"`{default}`"


def inline(text: str) -> list[nodes.Node]:
    """Turn words with `backticks` into nodes."""
    parts = re.split(r"`([^`]+)`", text)
    return [nodes.literal(part, part) if odd % 2 else nodes.Text(part) for odd, part in enumerate(parts) if part]


def table(head: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]) -> nodes.Node:
    """Make a table; cells may hold `backticks`."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=width) for width in widths]
    group += nodes.thead("", _row(head))
    group += nodes.tbody("", *(_row(row) for row in rows))
    wrapper = nodes.table("", group)
    wrapper["classes"].append("colwidths-given")
    return wrapper


def _row(cells: Sequence[str]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *inline(cell))) for cell in cells))


def blocks_of(cls: type[Any]) -> Iterator[tuple[str, type[Any]]]:
    """Return the keys whose values are blocks with keys of their own: the key, and the class of its blocks."""
    hints = get_type_hints(cls)
    for field in fields_of(cls):
        left = [hints[field.name]]
        while left:
            type_ = left.pop()
            left += get_args(type_)
            if attrs.has(type_):
                yield field.name, type_


def options_table(cls: type[Any]) -> nodes.Node:
    """Make the table of what a block of a file may hold; every key needs its `help`."""
    hints = get_type_hints(cls)
    rows = []
    for field in fields_of(cls):
        if not field.metadata.get("help"):
            raise ExtensionError(f'{cls.__qualname__}.{field.name} has no help; give it metadata={{"help": …}}')
        words = type_words(hints[field.name])
        rows.append([f"`{field.name}`", words, default_words(field), field.metadata["help"]])
    return table(["key", "what", "default", "meaning"], rows, [18, 20, 14, 48])


class Options(SphinxDirective):
    """``siteward-options:: module.Class``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].rpartition(".")
        return [options_table(getattr(import_module(module), name))]


class Backend(SphinxDirective):
    """``siteward-backend:: name``."""

    required_arguments = 1
    blocks: ClassVar = {
        "SiteOptions": "In the site file, under `backends: {{{name}: …}}`:",
        "JobOptions": "In a job file, under `launcher_spec: {{<site or default>: {{{name}: …}}}}`:",
        "StudyOptions": "In the site file, under `studies: {{<study>: {{{name}: …}}}}`:",
    }

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        backend = Plugins().backend(name)
        found: list[nodes.Node] = []
        for kind, words in self.blocks.items():
            options = getattr(backend, kind, None)
            empty = options is None or not list(fields_of(options))
            words = words.format(name=name)
            found.append(nodes.paragraph("", "", *inline(f"{words} nothing." if empty else words)))
            if not empty:
                found.append(options_table(options))
                for key, block in blocks_of(options):
                    found.append(nodes.paragraph("", "", *inline(f"Each of `{key}`:")))
                    found.append(options_table(block))
        return found


class Manager(SphinxDirective):
    """``siteward-manager:: name``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        options = Plugins().resource_manager(name).SiteOptions
        empty = not list(fields_of(options))
        words = f"In the site file, under `resources: {{{name}: …}}`:{' nothing.' if empty else ''}"
        found: list[nodes.Node] = [nodes.paragraph("", "", *inline(words))]
        return found if empty else [*found, options_table(options)]


class Plugin(SphinxDirective):
    """``siteward-plugin:: name``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        words = f"In the site file, under `plugins: {{{name}: …}}`:"
        options = Plugins().global_plugin(name).SiteOptions
        found: list[nodes.Node] = [nodes.paragraph("", "", *inline(words)), options_table(options)]
        for key, block in blocks_of(options):
            found.append(nodes.paragraph("", "", *inline(f"Each of `{key}`:")))
            found.append(options_table(block))
        return found


class Ends(SphinxDirective):
    """``siteward-ends::``."""

    def run(self) -> list[nodes.Node]:
        rows = []
        for reason in Reason:
            result = ended(reason=reason)
            code = f"{int(result.return_code)} {result.return_code.name}"
            rows.append([f"`{reason.value}`", result.state.value, code, WHEN[reason]])
        return [table(["reason", "state", "wire code", "when"], rows, [20, 14, 26, 40])]


class Phases(SphinxDirective):
    """``siteward-phases::``."""

    def run(self) -> list[nodes.Node]:
        rows = [[f"`{phase.value}`", *PHASES[phase]] for phase in Phase]
        return [table(["phase", "what has been done", "what the driver does next"], rows, [14, 46, 40])]


class ErrorTree(SphinxDirective):
    """``siteward-error-tree::``."""

    def run(self) -> list[nodes.Node]:
        _, _, rest = (inspect.getdoc(errors) or "").partition("::\n")
        tree = rest.split("\n\nMessages")[0].strip("\n")
        return [nodes.literal_block("", inspect.cleandoc(tree), language="text")]


class Promises(SphinxDirective):
    """``siteward-promises::``."""

    def run(self) -> list[nodes.Node]:
        rows = []
        for test in promises_of(BackendContract).values():
            marks = test.__dict__
            needs = ", ".join(f"`{hook}`" for hook in marks.get("needs_hooks", ()))
            without = f"no `{marks['without_hook']}`" if "without_hook" in marks else ""
            rows.append([words_of(test).replace("``", "`"), needs or without or "every backend"])
        return [table(["promise", "applies with"], rows, [70, 30])]


# Made by siteward, not by its users: how is nobody's business.
_MADE_FOR_USERS = {"Job", "SiteFile", "Handle", "Run", "JobRow", "Prepared"}
_DEFAULTS = {
    r"=\s*(NOTHING|<factory>|Factory\(.*?\)|<function <lambda>.*?>|frozenset\(\{.*?\}\))": "=...",
    r"=\s*<siteward\.[\w.]*?(\w+) object.*?>": r"=\1()",
    r"PosixPath\('\.'\)": "Path()",
    re.escape(repr(sys.executable)): "sys.executable",
}


def tidy_signature(
    _app: Sphinx, what: str, name: str, _obj: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show defaults as a reader needs them, and no constructor that is not for readers."""
    if what == "class" and name.rpartition(".")[2] in _MADE_FOR_USERS:
        return "", None
    for pattern, words in _DEFAULTS.items():
        signature = re.sub(pattern, words, signature) if signature else signature
    return signature, returns


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("siteward-options", Options)
    app.add_directive("siteward-backend", Backend)
    app.add_directive("siteward-manager", Manager)
    app.add_directive("siteward-plugin", Plugin)
    app.add_directive("siteward-ends", Ends)
    app.add_directive("siteward-phases", Phases)
    app.add_directive("siteward-error-tree", ErrorTree)
    app.add_directive("siteward-promises", Promises)
    app.connect("autodoc-process-signature", tidy_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
