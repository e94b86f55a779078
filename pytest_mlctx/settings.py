"""One table of options, and the settings of a session that come out of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

if TYPE_CHECKING:
    import argparse

Origin = Literal["command line", "ini", "default"]
"""Where a value came from."""


class Option(NamedTuple):
    """One option, of the command line and of ini.

    A tuple, as `Settings` is: a dataclass would cost every pytest session a millisecond.
    """

    name: str
    help: str
    default: str | None = None
    default_text: str = "none"
    metavar: str = ""
    choices: tuple[str, ...] = ()
    repeatable: bool = False
    ini_only: bool = False
    ini_type: Literal["string", "linelist", "args"] = "string"

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        return "--mlctx-" + self.name.replace("_", "-")

    @property
    def ini(self) -> str:
        """As it is written in an ini file."""
        return f"mlctx_{self.name}"

    @property
    def placeholder(self) -> str:
        """What stands for the value in the usage."""
        return "{" + ",".join(self.choices) + "}" if self.choices else self.metavar

    @property
    def told_default(self) -> str:
        """The default in words."""
        return self.default or self.default_text


_UNSET: Any = object()  # pytest 7.4 gives '' or [] for an ini option that is unset and has no default

OPTIONS = (
    Option(
        "experiment",
        "MLflow experiment that the tests' runs go to",
        default_text="the name of the root folder",
        metavar="NAME",
    ),
    Option(
        "log_level",
        "least severity of loguru's records that is logged, such as INFO",
        default="DEBUG",
        metavar="LEVEL",
    ),
    Option(
        "log_sink",
        "file that loguru's records are appended to; an xdist worker writes beside it, run.gw0.log",
        default_text="a temporary file",
        metavar="PATH",
    ),
    Option(
        "tracking_uri",
        "MLflow store that the tests track to, such as sqlite:///mlflow.db or http://host:5000",
        default_text="a temporary SQLite file",
        metavar="URI",
    ),
    Option(
        "registry_uri",
        "MLflow store that models are registered in",
        default_text="the tracking URI",
        metavar="URI",
    ),
    Option(
        "isolation",
        "test: each test starts from what the living fixtures of higher scope left in the temporary store; "
        "session: the store keeps what all tests logged; auto: test on the temporary store, session on "
        "one that you named",
        default="auto",
        choices=("auto", "session", "test"),
    ),
    Option(
        "remote",
        "what becomes of a remote store that the code under test names itself while the temporary one is in "
        "force: refuse it at first use, redirect it to the temporary store, or allow it",
        default="refuse",
        choices=("refuse", "redirect", "allow"),
    ),
    Option(
        "requirements",
        "how log_model and save_model come by pip requirements that the code does not give: infer them each "
        "time, as MLflow does; reuse them for each kind of model, in every test; auto: reuse them on a "
        "temporary store",
        default="auto",
        choices=("auto", "infer", "reuse"),
    ),
    Option("tag", "tag every run; repeatable", metavar="KEY=VALUE", repeatable=True, ini_type="linelist"),
    Option(
        "alerts",
        "where alerts go: printed, shown on the desktop, or nowhere",
        default="console",
        choices=("console", "desktop", "off"),
    ),
    Option(
        "leaks",
        "what to do when a test leaves the process-wide state changed: auto puts it back for tests that use "
        "a service and counts them; warn and error judge every test",
        default="auto",
        choices=("auto", "off", "warn", "error"),
    ),
    Option(
        "autouse",
        "services that are started for every test: any of logger, alerts, mlflow, separated by spaces",
        ini_only=True,
        ini_type="args",
    ),
)


class Settings(NamedTuple):
    """What a session was asked for, and where each value came from."""

    experiment: str
    log_level: str
    log_sink: Path | None
    tracking_uri: str | None
    registry_uri: str | None
    isolation: Literal["auto", "session", "test"]
    remote: Literal["refuse", "redirect", "allow"]
    requirements: Literal["auto", "infer", "reuse"]
    tags: Mapping[str, str]
    alerts: Literal["console", "desktop", "off"]
    leaks: Literal["auto", "off", "warn", "error"]
    autouse: tuple[str, ...]
    origins: Mapping[str, Origin]

    @property
    def given(self) -> bool:
        """Whether any value was given, on the command line or in ini."""
        return any(origin != "default" for origin in self.origins.values())


def add_options(parser: pytest.Parser) -> None:
    """Declare the table to pytest's parser, for the command line and for ini."""
    group = parser.getgroup("mlctx", "loguru, alerts and MLflow in tests (pytest-mlctx)")
    for option in OPTIONS:
        text = f"{option.help} (default: {option.told_default})"
        parser.addini(option.ini, text, type=option.ini_type, default=_UNSET)
        if not option.ini_only:
            group.addoption(
                option.flag,
                dest=option.ini,
                action="append" if option.repeatable else "store",
                metavar=option.placeholder,
                help=text.replace("%", "%%"),
            )


def table() -> str:
    """The options as the README shows them, in Markdown."""
    lines = ["| option | ini | meaning | default |", "|---|---|---|---|"]
    for option in OPTIONS:
        flag = "" if option.ini_only else f"`{option.flag} {option.placeholder}`"
        default = f"`{option.default}`" if option.default else option.told_default
        lines.append(f"| {flag} | `{option.ini}` | {option.help} | {default} |")
    return "\n".join(lines)


def names_autouse(config: pytest.Config) -> bool:
    """Whether ini names services for every test."""
    try:
        services = config.getini("mlctx_autouse")
    except TypeError:  # told by `read`
        return False
    return services is not _UNSET and bool(services)


def only_tells(config: pytest.Config) -> bool:
    """Whether pytest was asked for help or the like, which works with bad values too."""
    flags = ("help", "version", "markers", "showfixtures", "show_fixtures_per_test")
    return any(getattr(config.option, flag, False) for flag in flags)


def read(config: pytest.Config, given: argparse.Namespace) -> Settings:
    """The session's settings: command line over ini over default.

    Args:
        config: for ini and folders.
        given: the parsed command line; before pytest_configure it is not in config yet.

    Raises:
        pytest.UsageError: a value that can be judged wrong without a start; names option, value and remedy.
    """
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for option in OPTIONS:
        values[option.name], origins[option.name] = _value(config, given, option)
    if any(origin != "default" for origin in origins.values()):
        from pytest_mlctx.values import judge

        judge(values, origins, config)
    return Settings(
        experiment=values.pop("experiment") or " ".join(config.rootpath.name.split()) or "default",
        tags=values.pop("tag") or {},
        autouse=values.pop("autouse") or (),
        origins=origins,
        **values,
    )


def _value(config: pytest.Config, given: argparse.Namespace, option: Option) -> tuple[Any, Origin]:
    value = None if option.ini_only else getattr(given, option.ini, None)
    if value is not None:
        return value, "command line"
    try:
        value = config.getini(option.ini)
    except TypeError as error:  # a TOML file of pytest 9, where values have types
        raise pytest.UsageError(str(error)) from None
    return (option.default, "default") if value is _UNSET else (value, "ini")
