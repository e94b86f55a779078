from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from pytest_mlctx.services import cache
from pytest_mlctx.services.cache import Cache

posix = pytest.mark.skipif(os.name != "posix", reason="mode bits and owners are POSIX")
linux_root = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs root, to become somebody else"
)


@pytest.fixture
def kept(tmp_path: Path) -> Cache:
    return cache.at(tmp_path / "cache")


def folder_of(kept: Cache) -> Path:
    assert kept.path is not None
    return kept.path


def test_what_was_published_is_read(kept: Cache) -> None:
    assert kept.read("entry") is None
    assert kept.publish("entry", b"\0 some bytes")
    assert kept.publish("entry", b"newer")
    assert kept.read("entry") == b"newer"
    assert [file.name for file in folder_of(kept).iterdir()] == ["entry"]


def test_an_empty_entry_is_an_entry(kept: Cache) -> None:
    assert kept.publish("entry", b"")
    assert kept.read("entry") == b""


def replace_by_link(file: Path) -> None:
    real = file.with_name("real")
    file.rename(real)
    file.symlink_to(real)


def rename_from_another(file: Path) -> None:
    cache.at(file.parent).publish("other", b"x" * 1000)
    (file.parent / "other").replace(file)


def replace_by_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@posix
@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes()[:10]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(bytes(len(file.read_bytes()))),
        lambda file: file.write_bytes(b"SQLite format 3\0" + bytes(5000)),
        lambda file: file.chmod(0o666),
        lambda file: file.chmod(0o620),
        replace_by_link,
        replace_by_fifo,
        replace_by_folder,
        rename_from_another,
    ],
    ids=[
        "truncated",
        "cut short",
        "empty",
        "zeroed",
        "foreign",
        "world-writable",
        "group-writable",
        "symlink",
        "fifo",
        "folder",
        "renamed",
    ],
)
def test_a_spoiled_file_is_not_read_and_can_be_published_anew(
    kept: Cache, spoil: Callable[[Path], None]
) -> None:
    assert kept.publish("entry", b"x" * 1000)
    file = folder_of(kept) / "entry"
    spoil(file)
    assert kept.read("entry") is None
    if not file.is_dir():
        assert kept.publish("entry", b"y")
        assert kept.read("entry") == b"y"


@linux_root
def test_a_file_or_folder_of_somebody_else_is_not_trusted(kept: Cache) -> None:
    assert kept.publish("entry", b"x")
    file = folder_of(kept) / "entry"
    os.chown(file, 54321, 54321)
    assert kept.read("entry") is None
    os.chown(file.parent, 54321, 54321)
    assert cache.at(file.parent).path is None


@posix
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o722])
def test_a_folder_that_others_can_write_is_refused_in_one_sentence(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    refused = cache.at(tmp_path)
    assert refused.path is None
    assert refused.refusal is not None
    assert str(tmp_path) in refused.refusal
    assert "can be written by other users" in refused.refusal
    assert "MLCTX_CACHE_DIR" in refused.refusal


def test_without_a_folder_nothing_is_kept_and_nothing_fails(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    none = cache.at(blocked / "below a file")
    assert none.path is None
    assert "cannot be made" in (none.refusal or "")
    assert not none.writable
    assert not none.publish("entry", b"x")
    assert none.read("entry") is None
    assert none.folder("more").path is None
    with none.lock("entry") as held:
        assert not held


@posix
def test_what_we_make_is_ours_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        kept = cache.at(tmp_path / "a" / "b")
        kept.publish("entry", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder_of(kept).stat().st_mode) == 0o700
    assert stat.S_IMODE((folder_of(kept) / "entry").stat().st_mode) == 0o600
    assert kept.read("entry") == b"x"


def test_the_variable_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLCTX_CACHE_DIR", str(tmp_path / "named"))
    assert cache.user().path == tmp_path / "named"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLCTX_CACHE_DIR", "relative")
    assert cache.user().path == tmp_path / "relative"


def test_otherwise_it_is_the_platforms_cache_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLCTX_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    path = cache.user().path
    assert path is not None
    assert tmp_path in path.parents
    assert "pytest-mlctx" in path.parts


def in_a_fork(function: Callable[[], None]) -> None:
    """Run it in a process that may become somebody else."""
    process = get_context("fork").Process(target=function)
    process.start()
    process.join(30)
    assert process.exitcode == 0


@linux_root
def test_a_user_without_home_has_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "MLCTX_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def look() -> None:
        os.setuid(54321)  # in no password database
        none = cache.user()
        assert none.path is None
        assert "MLCTX_CACHE_DIR" in (none.refusal or "")

    in_a_fork(look)
    assert list(tmp_path.iterdir()) == []


@linux_root
def test_a_read_only_cache_is_read_and_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own is closed to others, TMPDIR may be
    try:
        folder.chmod(0o755)
        kept = cache.at(folder)
        assert kept.publish("entry", b"x")
        (folder / "entry").chmod(0o644)

        def look() -> None:
            os.setuid(54321)
            kept = cache.at(folder)
            assert kept.read("entry") == b"x"
            assert not kept.writable
            assert not kept.publish("entry", b"y")
            with kept.lock("entry") as held:
                assert not held

        in_a_fork(look)
        assert kept.read("entry") == b"x"
        assert sorted(file.name for file in folder.iterdir()) == ["entry"]
    finally:
        shutil.rmtree(folder)


def test_the_lock_is_held_by_one(kept: Cache) -> None:
    with kept.lock("entry") as held:
        assert held
        with kept.lock("entry", timeout=0.05) as second:
            assert not second
        with kept.lock("another") as other:
            assert other
    with kept.lock("entry", timeout=0.05) as again:
        assert again


def test_a_killed_writers_file_is_swept_and_a_living_ones_is_not(kept: Cache) -> None:
    for name, age in ((".unfinished-old", 7200), (".unfinished-new", 0)):
        file = folder_of(kept) / name
        file.write_bytes(b"half")
        os.utime(file, (time.time() - age,) * 2)
    kept.publish("entry", b"x")
    assert sorted(file.name for file in folder_of(kept).iterdir()) == [".unfinished-new", "entry"]


@linux_root
def test_on_a_full_disk_nothing_is_published_and_nothing_left(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        kept = cache.at(tmp_path)
        assert kept.publish("entry", b"x")
        assert not kept.publish("entry", b"y" * 200_000)
        assert kept.read("entry") == b"x"
        assert [file.name for file in tmp_path.iterdir()] == ["entry"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; import pytest_mlctx.services.cache, pytest_mlctx.services.store\n"
        "print([m for m in ('mlflow', 'sqlalchemy', 'alembic', 'filelock')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
