"""The reference is complete: nothing that a user can name goes without documentation."""

import inspect
import re
from pathlib import Path

import attrs
import click
import pytest

import siteward
from siteward import Plugins
from siteward.cli import main
from siteward.hookspecs import BACKEND_HOOKS, PLUGIN_HOOKS, RESOURCE_HOOKS
from siteward.job import Job, SiteSpec
from siteward.sitefile import Keep, SecretSource, SiteFile

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text() for path in sorted(DOCS.glob("[!_]*/**/*.md"))}
PAGES |= {path.name: path.read_text() for path in sorted(DOCS.glob("*.md"))}
REFERENCE = "\n".join(text for name, text in PAGES.items() if name.startswith("reference/"))


def option_classes():
    yield from (Job, SiteSpec, SiteFile, Keep, SecretSource)
    for load, name in plugin_classes():
        kinds = (getattr(load(name), each, None) for each in ("SiteOptions", "JobOptions", "StudyOptions"))
        yield from filter(None, kinds)


def plugin_classes():
    plugins = Plugins()
    yield from ((plugins.backend, name) for name in plugins.names("siteward.backends"))
    yield from ((plugins.resource_manager, name) for name in plugins.names("siteward.resources"))
    yield from ((plugins.global_plugin, name) for name, _kind in global_options())


def global_options():
    plugins = Plugins()
    for name in plugins.names("siteward.plugins"):
        if (kind := getattr(plugins.global_plugin(name), "SiteOptions", None)) is not None:
            yield name, kind


def keys():
    for cls in option_classes():
        for each in attrs.fields(cls):
            if each.init and not each.metadata.get("internal"):
                yield f"{cls.__module__}.{cls.__qualname__}.{each.name}", each


def commands(command, path):
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), f"{path} {name}")


def table(rows):
    """Return the arguments of ``parametrize`` for named values."""
    names, values = zip(*rows, strict=True)
    return {"argvalues": values, "ids": names}


@pytest.mark.parametrize("name", siteward.__all__)
def test_every_public_name_has_an_entry(name):
    """It is in the reference under the name that it is imported by."""
    assert re.search(rf"^\.\. (auto|py:)\w+:: siteward\.{name}$", REFERENCE, re.MULTILINE)


@pytest.mark.parametrize("name", [each for each in siteward.__all__ if inspect.isroutine(getattr(siteward, each))])
def test_every_public_function_has_a_docstring(name):
    """Its own."""
    assert inspect.getdoc(getattr(siteward, name))


@pytest.mark.parametrize("name", [each for each in siteward.__all__ if inspect.isclass(getattr(siteward, each))])
def test_every_public_class_and_method_has_a_docstring(name):
    """Its own, not its base's; so has each public method and property."""
    cls = getattr(siteward, name)
    assert cls.__doc__
    for attribute, value in vars(cls).items():
        if attribute.startswith("_"):
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function):
            assert function.__doc__, attribute


@pytest.mark.parametrize("spec", ["BackendSpec", "ResourceSpec", "PluginSpec"])
def test_every_hook_is_on_the_page_of_hooks(spec):
    """Each class of hooks is there with all its members."""
    assert f".. autoclass:: siteward.hookspecs.{spec}\n   :members:\n" in PAGES["reference/hooks.md"]
    from siteward import hookspecs

    documented = {name for name in vars(getattr(hookspecs, spec)) if name.startswith("siteward_")}
    assert documented <= {*BACKEND_HOOKS, *RESOURCE_HOOKS, *PLUGIN_HOOKS}


@pytest.mark.parametrize("field", **table(keys()))
def test_every_key_of_a_file_says_what_it_means(field):
    """In one line, with no full stop, as tables and messages show it."""
    words = field.metadata.get("help", "")
    assert words.strip()
    assert "\n" not in words
    assert not words.endswith(".")


@pytest.mark.parametrize("cls", [cls for cls in option_classes() if cls.__module__.startswith("siteward.")])
def test_every_kind_of_file_block_has_a_table(cls):
    """By its class."""
    assert f"```{{siteward-options}} {cls.__module__}.{cls.__qualname__}\n" in PAGES["reference/files.md"]


@pytest.mark.parametrize(("load", "name"), [pytest.param(*each, id=each[1]) for each in plugin_classes()])
def test_every_plugin_with_options_has_its_tables(load, name):
    """A backend, a resource manager or a global plugin by its name."""
    kind = {"backend": "backend", "resource_manager": "manager", "global_plugin": "plugin"}[load.__name__]
    assert f"```{{siteward-{kind}}} {name}\n" in PAGES["reference/files.md"]


@pytest.mark.parametrize("command", **table(commands(main, "siteward")))
def test_every_command_and_option_has_help(command):
    """A command says what it does, an option what it is for; arguments are named in the command's words."""
    assert (command.help or "").strip()
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert (parameter.help or "").strip(), parameter.opts


def test_the_page_of_commands_is_the_program_itself():
    """All commands, from the program's own help."""
    assert re.search(r"click:: siteward\.cli:main\n.*\n?   :nested: full", PAGES["reference/command-line.md"])


@pytest.mark.parametrize("page", PAGES)
def test_pages_speak_of_no_machine(page):
    """No path of somebody's machine, and no package registry."""
    assert not re.search(r"/(home|root|work|Users)/|pypi\.org|pythonhosted", PAGES[page])
