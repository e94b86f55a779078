"""LoggerService: each field, where the records go, and that loguru is as it was afterwards."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loguru import logger
from pydantic import ValidationError

from pytest_mlctx.services import LoggerService, ServiceError, state

LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    before = state.capture("loguru", "logging", "environment")
    yield
    left = state.compare(before, state.capture("loguru", "logging", "environment"))
    state.restore(before)
    assert left == []


def logged(service: LoggerService) -> list[str]:
    """What the service's file holds, without the audit records."""
    lines = Path(service.sink).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "LoggerService st" not in line]


@pytest.mark.criterion("the logger captures messages of various levels")
@pytest.mark.parametrize("level", LEVELS)
def test_records_from_the_level_on_are_written(tmp_path: Path, level: str) -> None:
    with LoggerService(sink=str(tmp_path / "log"), level=level, format="{level}:{message}") as service:
        for name in LEVELS:
            service.logger().log(name, "said")
    assert logged(service) == [f"{name}:said" for name in LEVELS[LEVELS.index(level) :]]


@pytest.mark.criterion("the log output has the configured format")
def test_the_format_is_the_one_that_was_given(tmp_path: Path) -> None:
    form = "{level.name: <8}|{name}|{function}|{extra[job]}|<red>{message}</red>"
    service = LoggerService(sink=str(tmp_path / "log"), format=form)
    with service, logger.contextualize(job="nightly"):
        logger.info("größer {}", 1)
    assert logged(service)[-1] == (
        f"INFO    |{__name__}|test_the_format_is_the_one_that_was_given|nightly|größer 1"
    )


@pytest.mark.criterion("the logger can be retrieved at any point")
def test_the_logger_is_loguru_s_own_before_within_and_after(tmp_path: Path) -> None:
    service = LoggerService(sink=str(tmp_path / "log"))
    assert service.logger() is logger
    with service:
        assert LoggerService.current().logger() is logger
    assert service.logger() is logger


@pytest.mark.criterion("sink, level and format can be customized before the start")
@pytest.mark.parametrize("sink", ["stderr", "stdout"])
def test_a_standard_stream_is_looked_up_at_each_write(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sink: str
) -> None:
    with LoggerService(sink=sink, format="{message}", colorize=False):
        logger.info("to the captured stream")
        replaced = io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, sink, replaced)
            logger.info("to the replaced stream")
            kept = replaced.getvalue()
            replaced.close()
            real = io.StringIO()
            patch.setattr(sys, f"__{sink}__", real)
            logger.info("to the real stream")
            patch.setattr(sys, f"__{sink}__", None)
            logger.info("to nobody")
    shown = getattr(capsys.readouterr(), sink[3:])
    assert "to the captured stream" in shown
    assert kept == "to the replaced stream\n"
    assert real.getvalue() == "to the real stream\n"
    assert "to nobody" not in shown
    assert "closed file" not in shown


def test_colours_are_for_streams_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LoggerService(sink="stdout", format="<red>{message}</red>"):
        logger.info("coloured")
    with LoggerService(sink="stdout", format="<red>{message}</red>", colorize=False):
        logger.info("plain")
    with LoggerService(sink=str(tmp_path / "log"), format="<red>{message}</red>", colorize=True) as service:
        logger.info("in a file")
    lines = capsys.readouterr().out.splitlines()
    assert "\x1b[31mcoloured\x1b[0m" in lines
    assert "plain" in lines
    assert logged(service) == ["in a file"]


@pytest.mark.criterion("logger options given at initialization are applied")
def test_serialized_records_are_lines_of_json(tmp_path: Path) -> None:
    with LoggerService(sink=str(tmp_path / "log"), serialize=True, format="{message}") as service:
        logger.bind(k=5).warning("as data")
    entry = json.loads(logged(service)[-1])
    assert entry["text"] == "as data\n"
    assert entry["record"]["level"]["name"] == "WARNING"
    assert entry["record"]["extra"] == {"k": 5}


def fail(password: str) -> None:
    try:
        raise LookupError(len(password))
    except LookupError:
        logger.exception("it failed")


@pytest.mark.parametrize(("backtrace", "diagnose"), [(True, False), (False, True), (False, False)])
def test_tracebacks_show_frames_and_values_as_asked(tmp_path: Path, backtrace: bool, diagnose: bool) -> None:
    def caller() -> None:
        fail("".join(["hunter", "2"]))

    sink = str(tmp_path / "log")
    with LoggerService(sink=sink, backtrace=backtrace, diagnose=diagnose):
        caller()
    text = Path(sink).read_text()
    assert "LookupError: 7" in text
    assert ("in caller" in text) is backtrace
    assert ("hunter2" in text) is diagnose


def test_by_default_no_values_are_shown() -> None:
    service = LoggerService()
    assert (service.backtrace, service.diagnose, service.catch, service.serialize) == (
        True,
        False,
        True,
        False,
    )
    assert (service.sink, service.level, service.colorize) == ("stderr", "DEBUG", True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_an_error_of_the_sink_is_caught_or_raised_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with LoggerService(sink="/dev/full", catch=True):
        logger.info("lost")
    assert "No space left on device" in capsys.readouterr().err
    with pytest.raises(ServiceError, match=r"audit record.*No space left on device"):
        LoggerService(sink="/dev/full", catch=False).start()


def test_only_loguru_s_default_handler_is_set_aside(tmp_path: Path) -> None:
    users: list[str] = []
    handler = logger.add(lambda message: users.append(message.record["message"]), level="INFO")
    ids = set(logger._core.handlers)  # type: ignore[attr-defined]
    default = logger._core.handlers.get(0)  # type: ignore[attr-defined]
    with LoggerService(sink=str(tmp_path / "log")):
        assert 0 not in logger._core.handlers  # type: ignore[attr-defined]
        added: list[str] = []
        logger.add(lambda message: added.append(message.record["message"]))
        logger.info("within")
    logger.info("after")
    assert set(logger._core.handlers) == ids  # type: ignore[attr-defined]
    assert logger._core.handlers.get(0) is default  # type: ignore[attr-defined]
    assert [text for text in users if "Service" not in text] == ["within", "after"]
    assert "within" in added
    assert "after" not in added
    logger.remove(handler)


@pytest.mark.parametrize(
    "duplicate",
    [
        lambda service: service.model_copy(update={"level": "INFO"}),
        copy.copy,
        copy.deepcopy,
        lambda service: pickle.loads(pickle.dumps(service)),
    ],
)
def test_a_copy_takes_nothing_away_from_the_original(
    tmp_path: Path, duplicate: Callable[[LoggerService], LoggerService]
) -> None:
    with LoggerService(sink=str(tmp_path / "log"), format="{message}") as service:
        with duplicate(service) as copied:
            assert LoggerService.current() is copied
            logger.info("to both")
        assert not copied.running
        logger.info("to one")
    assert logged(service) == ["to both", "to both", "to one"]


def test_having_run_makes_no_difference_to_equality() -> None:
    service = LoggerService()
    with service:
        assert service == LoggerService()
    assert service == LoggerService()
    assert hash(service) == hash(LoggerService())
    assert service != LoggerService(level="INFO")


_USERS_OWN_FIRST = """
import sys
if sys.argv[1:]:
    sys.stderr = sys.__stderr__ = None  # as pythonw.exe and daemons have it
from loguru import logger
lines = []
assert logger.add(lambda message: lines.append(message.record["message"])) == 0
from pytest_mlctx.services import LoggerService
with LoggerService(sink="stdout", level="CRITICAL"):
    logger.info("within")
    logger.remove(0)
print([line for line in lines if "Service" not in line])
"""


@pytest.mark.parametrize("autoinit", ["0", "1"])
def test_where_loguru_brought_no_handler_the_first_is_the_users(autoinit: str) -> None:
    command = [sys.executable, "-c", _USERS_OWN_FIRST, *["no stderr"][: int(autoinit)]]
    environment = {**os.environ, "LOGURU_AUTOINIT": autoinit}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.stdout == "['within']\n", done.stderr


def test_what_was_changed_meanwhile_is_given_back(tmp_path: Path) -> None:
    before = state.capture("loguru", "logging")
    with LoggerService(sink=str(tmp_path / "log")):
        logger.configure(extra={"job": "nightly"}, patcher=lambda record: None)
        logger.level("NOTICE", no=25)
        logger.disable("urllib3")
        logger.remove()
        logging.getLogger().addHandler(logging.NullHandler())
    assert state.compare(before, state.capture("loguru", "logging")) == []


def test_a_file_is_appended_to_and_closed(tmp_path: Path) -> None:
    service = LoggerService(sink=str(tmp_path / "a log ☂ #1?.txt"), format="{message}")
    for word in ("one", "two"):
        with service:
            logger.info(word)
    assert logged(service) == ["one", "two"]
    Path(service.sink).unlink()
    logger.info("nobody has it open")
    assert not Path(service.sink).exists()


def test_a_relative_sink_lies_in_the_folder_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with LoggerService(sink="job.log", format="{message}"):
        monkeypatch.chdir(tmp_path / "elsewhere")
        logger.info("stays")
    assert "stays" in (tmp_path / "job.log").read_text()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_record_is_lost_or_doubled_while_the_service_starts_within_itself(tmp_path: Path) -> None:
    done = threading.Event()
    sent: list[int] = []

    def work() -> None:
        while not done.is_set():
            logger.info(len(sent))
            sent.append(len(sent))

    service = LoggerService(sink=str(tmp_path / "log"), format="{message}")
    with service:
        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(100):
            with service:
                pass
        done.set()
        thread.join()
    numbers = [int(line) for line in logged(service) if line.isdigit()]
    assert numbers == sent


def test_threads_log_while_the_service_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running = threading.Event()
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            logger.info("from a thread")
            running.set()

    threads = [threading.Thread(target=work) for _ in range(3)]
    service = LoggerService(sink=str(tmp_path / "log"), format="{message}")
    service.start()
    for thread in threads:
        thread.start()
    running.wait(5)
    service.stop()
    done.set()
    for thread in threads:
        thread.join()
    assert "from a thread" in logged(service)
    assert "Logging error" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("level", "LOUD", r"'LOUD' is not a level of loguru's: use TRACE, DEBUG"),
        ("level", "info", r"'info' is not a level of loguru's"),
        (
            "format",
            "{mesage}",
            r"'\{mesage\}' names 'mesage', which loguru's records have not: use .*message",
        ),
        (
            "format",
            "{level.nme}",
            r"names 'level.nme', but of 'level' loguru's records have only icon, name, no",
        ),
        ("format", "{}", r"'\{\}' names '', which"),
        ("format", "{message", r"'\{message' is not a format string"),
        ("sink", " ", "is empty: use stderr, stdout or the path of a file"),
    ],
)
def test_a_bad_field_is_refused_when_it_is_given(field: str, value: str, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence) as caught:
        LoggerService(**{field: value})  # type: ignore[arg-type]
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


def test_a_level_of_the_users_own_is_known(tmp_path: Path) -> None:
    before = state.capture("loguru")
    logger.level("NOTICE", no=25)
    with LoggerService(sink=str(tmp_path / "log"), level="NOTICE", format="{message}") as service:
        logger.log("NOTICE", "heard")
        logger.info("not heard")
    assert logged(service) == ["heard"]
    state.restore(before)


@pytest.mark.parametrize(
    ("sink", "sentence"),
    [
        ("missing/job.log", r"sink '.*missing/job.log': the folder '.*missing' does not exist: create it"),
        ("", r"sink '.*' is a folder: add the name of a file"),
        ("file/job.log", r"sink '.*': the folder '.*file' does not exist"),
        ("a" * 300, r"sink '.*' is not the path of a file \(File name too long\): choose another"),
        ("job\0.log", r"sink '.*' is not the path of a file \(.*embedded null .*\): choose another"),
        ("job{.log", r"sink '.*job\{.log' has braces, in which loguru knows only \{time\}"),
        ("job{x}.log", r"sink '.*job\{x\}.log' has braces, in which loguru knows only \{time\}"),
    ],
)
def test_a_sink_that_cannot_be_is_refused_at_the_start(tmp_path: Path, sink: str, sentence: str) -> None:
    (tmp_path / "file").write_text("")
    before = state.capture("loguru")
    service = LoggerService(sink=str(tmp_path / sink))
    with pytest.raises(ServiceError, match=sentence):
        service.start()
    assert not service.running
    assert state.compare(before, state.capture("loguru")) == []


def test_markup_that_loguru_does_not_know_is_refused_at_the_start() -> None:
    with pytest.raises(ServiceError, match=r"LoggerService\.format '<nocolour>.*' is not valid \("):
        LoggerService(format="<nocolour>{message}</nocolour>").start()


_AS_NOBODY = """
import os
from pytest_mlctx.services import LoggerService, ServiceError
if os.geteuid() == 0:
    os.setuid(65534)  # once all is imported: nobody may not read what root installed
try:
    LoggerService(sink="/etc/job.log").start()
except ServiceError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="permissions are POSIX's")
def test_a_sink_without_permission_is_one_sentence() -> None:
    command = [sys.executable, "-c", _AS_NOBODY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == (
        "LoggerService.sink '/etc/job.log' cannot be written (Permission denied): "
        "change its permissions or choose another file.\n"
    )
