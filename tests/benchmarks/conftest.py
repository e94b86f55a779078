"""Ours beside what a user would do otherwise: measured in turn, printed as ratios, drawn where asked."""

from __future__ import annotations

import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

OURS = "ours"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--plot", metavar="FILE", help="draw the ratios as SVG")


class Ratios:
    """The seconds that each way of doing a work took, and how many times ours is faster."""

    def __init__(self) -> None:
        self.seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def rows(self) -> Iterator[tuple[str, str, float, float]]:
        """Work, other way, its median and ours, in seconds."""
        for work, ways in self.seconds.items():
            for ours in (way for way in ways if way.startswith(OURS)):
                for way in (way for way in ways if not way.startswith(OURS)):
                    name = work if ours == OURS else f"{work}, {ours.removeprefix(OURS + ', ')}"
                    yield name, way, statistics.median(ways[way]), statistics.median(ways[ours])


KEY = pytest.StashKey[Ratios]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[KEY] = Ratios()


@pytest.fixture
def measure(request: pytest.FixtureRequest, benchmark: Any) -> Any:
    """Run a function as one way of doing a work; one that returns a number has measured itself."""

    def run(work: str, way: str, function: Any, *, rounds: int = 1, setup: Any = None) -> None:
        benchmark.group = work
        result = benchmark.pedantic(function, rounds=rounds, setup=setup)
        taken = [result] if isinstance(result, float) else benchmark.stats.stats.data
        request.config.stash[KEY].seconds[work][way].extend(taken)

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = list(config.stash[KEY].rows())
    if not rows:
        return
    terminalreporter.section("ratios of medians")
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    terminalreporter.write_line(
        f"{machine}, Python {platform.python_version()}, MLflow {version('mlflow-skinny')}"
    )
    terminalreporter.write_line(f"{'work':<58} {'against':<30} {'theirs':>11} {'ours':>11} {'ratio':>9}")
    for work, way, theirs, ours in rows:
        terminalreporter.write_line(
            f"{work:<58} {way:<30} {theirs * 1000:>8.1f} ms {ours * 1000:>8.1f} ms {theirs / ours:>8.2f}x"
        )
    if plot := config.getoption("--plot"):
        draw(rows, Path(plot))


def draw(rows: list[tuple[str, str, float, float]], file: Path) -> None:
    """Bars of the ratios, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = rows[::-1]
    ratios = [theirs / ours for _, _, theirs, ours in rows]
    figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(rows) + 1))
    bars = axes.barh([f"{work}\nagainst {way}" for work, way, _, _ in rows], ratios, color="#0194e2")
    axes.bar_label(bars, [f"{ratio:.3g}x" for ratio in ratios], padding=3)
    axes.set_xscale("log")
    axes.set_xlim(0.8, max(ratios) * 4)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_title("times faster with pytest-mlctx (median)", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", labelsize=8)
    figure.tight_layout()
    matplotlib.rcParams["svg.hashsalt"] = "mlctx"
    figure.savefig(file, metadata={"Date": None})
