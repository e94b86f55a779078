"""Which test shows which acceptance criterion of the user stories: by the marker `criterion`."""

from __future__ import annotations

import re
from pathlib import Path

CRITERIA = {
    "Start a global service": {
        "start initializes all necessary configurations",
        "the running service is accessible throughout the application",
        "start raises only for severe errors",
    },
    "Stop a global service": {
        "stop cleans up without errors",
        "stop is logged for audit",
    },
    "Log messages with the logger service": {
        "the logger captures messages of various levels",
        "the log output has the configured format",
        "the logger can be retrieved at any point",
    },
    "Configure the logger service": {
        "logger options given at initialization are applied",
        "sink, level and format can be customized before the start",
    },
    "Send notifications with the alerts service": {
        "alerts are sent with correct formatting",
        "alerts can be toggled on or off",
        "alerts have a title and a message",
    },
    "Configure the MLflow tracking service": {
        "tracking URI and experiment are set on start",
        "logging and registry settings function as intended",
    },
    "Use the MLflow run context": {
        "a block logs the start and end of a run",
        "name, tags and description are logged",
    },
}


def test_every_criterion_is_shown_by_a_test() -> None:
    tests = Path(__file__).parents[1].rglob("test_*.py")
    shown = {
        criterion
        for test in tests
        for criterion in re.findall(r'mark\.criterion\("(.+)"\)', test.read_text(encoding="utf-8"))
    }
    assert shown == set().union(*CRITERIA.values())
