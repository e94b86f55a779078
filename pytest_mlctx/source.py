"""The source of a session as tags: command line, commit and branch, and the CI build."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class _Provider(NamedTuple):
    """The variables of one CI, by its own documentation; in an address they stand in braces."""

    name: str
    detected_by: str
    build: str
    address: str
    branches: tuple[str, ...]
    commit: str
    pull_request: str


_PROVIDERS = (
    _Provider(
        "GitHub Actions",
        "GITHUB_ACTIONS",
        "GITHUB_RUN_ID",
        "{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}",
        ("GITHUB_HEAD_REF", "GITHUB_REF_NAME"),
        "GITHUB_SHA",
        "GITHUB_REF",  # refs/pull/7/merge
    ),
    _Provider(
        "GitLab CI",
        "GITLAB_CI",
        "CI_PIPELINE_ID",
        "{CI_JOB_URL}",
        ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "CI_COMMIT_REF_NAME"),
        "CI_COMMIT_SHA",
        "CI_MERGE_REQUEST_IID",
    ),
    _Provider(
        "Jenkins",
        "JENKINS_URL",
        "BUILD_TAG",
        "{BUILD_URL}",
        ("CHANGE_BRANCH", "BRANCH_NAME", "GIT_BRANCH"),
        "GIT_COMMIT",
        "CHANGE_ID",
    ),
    _Provider(
        "Buildkite",
        "BUILDKITE",
        "BUILDKITE_BUILD_NUMBER",
        "{BUILDKITE_BUILD_URL}",
        ("BUILDKITE_BRANCH",),
        "BUILDKITE_COMMIT",
        "BUILDKITE_PULL_REQUEST",  # "false" where there is none
    ),
    _Provider(
        "Azure Pipelines",
        "TF_BUILD",
        "BUILD_BUILDID",
        "{SYSTEM_COLLECTIONURI}{SYSTEM_TEAMPROJECT}/_build/results?buildId={BUILD_BUILDID}",
        ("SYSTEM_PULLREQUEST_SOURCEBRANCH", "BUILD_SOURCEBRANCHNAME"),
        "BUILD_SOURCEVERSION",
        "SYSTEM_PULLREQUEST_PULLREQUESTNUMBER",
    ),
)


def tags(command: str, root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """MLflow's own tags of a source, and ours of the CI; what is not known is left out."""
    known = {
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": command,
        **dict(_of_git(root)),
        **dict(_of_ci(environ)),
    }
    return {tag: value for tag, value in known.items() if value}


def default_branch(root: Path) -> str | None:
    """The branch that the checkout's remote calls default; None where there is none or it is not known."""
    branch = _git(root, "symbolic-ref", "--short", "--quiet", "refs/remotes/origin/HEAD")
    return branch.removeprefix("origin/") or None


def _git(root: Path, *question: str) -> str:
    command = ("git", "-C", str(root), *question)
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError, UnicodeError):  # no git, no checkout, a detached HEAD
        return ""


def _of_git(root: Path) -> Iterator[tuple[str, str]]:
    yield "mlflow.source.git.commit", _git(root, "rev-parse", "HEAD")
    yield "mlflow.source.git.branch", _git(root, "symbolic-ref", "--short", "--quiet", "HEAD")


def _of_ci(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for provider in _PROVIDERS:
        if environ.get(provider.detected_by):
            yield "mlctx.ci.provider", provider.name
            yield "mlctx.ci.build", environ.get(provider.build, "")
            names = re.findall(r"{(\w+)}", provider.address)
            if all(name in environ for name in names):
                yield "mlctx.ci.address", provider.address.format_map(environ)
            pull_request = re.search(r"(?:^|/pull/)(\d+)", environ.get(provider.pull_request, ""))
            yield "mlctx.ci.pull_request", pull_request[1] if pull_request else ""
            yield "mlflow.source.git.commit", environ.get(provider.commit, "")
            branches = (environ.get(name) for name in provider.branches)
            yield "mlflow.source.git.branch", next(filter(None, branches), "").removeprefix("refs/heads/")
            return
