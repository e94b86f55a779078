"""The table of options, from which the parser, the ini file and the docs are made."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import pytest

Origin = Literal["command line", "ini", "default"]
"""Where a value came from."""

Isolation = Literal["auto", "session", "test"]
Remote = Literal["refuse", "redirect", "allow"]
Requirements = Literal["auto", "infer", "reuse"]
Alerts = Literal["console", "desktop", "off"]
Leaks = Literal["auto", "off", "warn", "error"]
Stores = Literal["migrate", "template"]
Notify = Literal["never", "failure", "always"]
Baseline = Literal["check", "record", "pin"]


class Option(NamedTuple):
    """One option, of the command line and of ini.

    A tuple: a dataclass would cost every pytest session a millisecond.
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

    def named(self, origin: Origin) -> str:
        """As it was given."""
        return f"ini option {self.ini}" if origin == "ini" else self.flag

    @property
    def placeholder(self) -> str:
        """What stands for the value in the usage."""
        return "{" + ",".join(self.choices) + "}" if self.choices else self.metavar

    @property
    def told_default(self) -> str:
        """The default in words."""
        return self.default or self.default_text


RECORD_MARKER = (
    "mlctx_record(record=True, *, name=None, description=None, tags=None): "
    "how --mlctx-record records this test; with False, not at all"
)

TRIALS_MARKER = (
    "mlctx_trials(count, *, pass_rate=1.0): run this test so often, with fixtures of function scope anew; "
    "it passes when at least that share of the trials does"
)

UNSET: Any = object()  # pytest 7.4 gives '' or [] for an ini option that is unset and has no default

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
        choices=get_args(Isolation),
    ),
    Option(
        "remote",
        "what becomes of a remote store that the code under test names itself while the temporary one is in "
        "force: refuse it at first use, redirect it to the temporary store, or allow it",
        default="refuse",
        choices=get_args(Remote),
    ),
    Option(
        "requirements",
        "how log_model and save_model come by pip requirements that the code does not give: infer them each "
        "time, as MLflow does; reuse them for each kind of model, in every test; auto: reuse them on a "
        "temporary store",
        default="auto",
        choices=get_args(Requirements),
    ),
    Option(
        "stores",
        "how an empty SQLite file of the suite's own becomes a store: by MLflow's migrations, or by a copy "
        "of a migrated template",
        default="migrate",
        choices=get_args(Stores),
    ),
    Option(
        "tag",
        "tag every run and trace; repeatable",
        metavar="KEY=VALUE",
        repeatable=True,
        ini_type="linelist",
    ),
    Option(
        "record",
        "MLflow store that keeps a run for each test, its record: outcome, durations, what its runs logged",
        metavar="URI",
    ),
    Option(
        "baseline",
        "what becomes of a metric with no history in the records: check fails it, record lets it pass and be "
        "recorded; pin does so too, and makes a session that passes the anchor of later ones",
        default="check",
        choices=get_args(Baseline),
    ),
    Option(
        "baseline_branch",
        "the branch whose records are the history of a metric",
        default_text="the remote's default branch, else any",
        metavar="NAME",
    ),
    Option(
        "alerts",
        "where alerts go: printed, shown on the desktop, or nowhere",
        default="console",
        choices=get_args(Alerts),
    ),
    Option(
        "notify",
        "an alert when the session ends: never, only when it failed, or always",
        default="never",
        choices=get_args(Notify),
    ),
    Option(
        "leaks",
        "what to do when a test leaves the process-wide state changed: auto puts it back for tests that use "
        "a service and counts them; warn and error check every test",
        default="auto",
        choices=get_args(Leaks),
    ),
    Option(
        "autouse",
        "services that are started for every test: any of logger, alerts, mlflow, separated by spaces",
        ini_only=True,
        ini_type="args",
    ),
)


BY_NAME = {option.name: option for option in OPTIONS}


def needs_the_temporary_store(isolation: Origin, other: str) -> str:
    """The sentence for isolation by test beside a store that something else names.

    Args:
        isolation: where the value `test` came from.
        other: what names the other store.
    """
    name = BY_NAME["isolation"].named(isolation)
    return f"{name}: 'test' needs the temporary store and {other} names another, drop one of them."


def add_options(parser: pytest.Parser) -> None:
    """Declare the table to pytest's parser, for the command line and for ini."""
    group = parser.getgroup("mlctx", "loguru, alerts and MLflow in tests (pytest-mlctx)")
    for option in OPTIONS:
        text = f"{option.help} (default: {option.told_default})"
        parser.addini(option.ini, text, type=option.ini_type, default=UNSET)
        if not option.ini_only:
            group.addoption(
                option.flag,
                dest=option.ini,
                action="append" if option.repeatable else "store",
                metavar=option.placeholder,
                help=text.replace("%", "%%"),
            )


def table() -> str:
    """The options as the docs show them, in Markdown."""
    lines = ["| option | ini | meaning | default |", "|---|---|---|---|"]
    for option in OPTIONS:
        flag = "" if option.ini_only else f"`{option.flag} {option.placeholder}`"
        default = f"`{option.default}`" if option.default else option.told_default
        lines.append(f"| {flag} | `{option.ini}` | {option.help} | {default} |")
    return "\n".join(lines)
