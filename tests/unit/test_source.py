"""The source of a session: its checkout, and the build of each CI by the variables that the CI documents."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_mlctx import source

CI = [
    (
        {
            "GITHUB_ACTIONS": "true",
            "GITHUB_RUN_ID": "123",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_REPOSITORY": "team/repo",
            "GITHUB_REF": "refs/pull/7/merge",
            "GITHUB_REF_NAME": "7/merge",
            "GITHUB_HEAD_REF": "topic",
            "GITHUB_SHA": "abc",
        },
        ("GitHub Actions", "123", "https://github.com/team/repo/actions/runs/123", "7", "topic", "abc"),
    ),
    (
        {
            "GITHUB_ACTIONS": "true",
            "GITHUB_RUN_ID": "123",
            "GITHUB_REF": "refs/heads/2024",
            "GITHUB_REF_NAME": "2024",
            "GITHUB_HEAD_REF": "",
        },
        ("GitHub Actions", "123", None, None, "2024", None),
    ),
    (
        {
            "GITLAB_CI": "true",
            "CI_PIPELINE_ID": "5",
            "CI_JOB_URL": "https://gitlab.com/j/9",
            "CI_COMMIT_REF_NAME": "main",
            "CI_COMMIT_SHA": "abc",
            "CI_MERGE_REQUEST_IID": "3",
        },
        ("GitLab CI", "5", "https://gitlab.com/j/9", "3", "main", "abc"),
    ),
    (
        {
            "JENKINS_URL": "https://ci",
            "BUILD_TAG": "jenkins-x-4",
            "BUILD_URL": "https://ci/4",
            "GIT_BRANCH": "origin/main",
            "BRANCH_NAME": "main",
            "GIT_COMMIT": "abc",
        },
        ("Jenkins", "jenkins-x-4", "https://ci/4", None, "main", "abc"),
    ),
    (
        {
            "BUILDKITE": "true",
            "BUILDKITE_BUILD_NUMBER": "8",
            "BUILDKITE_BUILD_URL": "https://buildkite.com/8",
            "BUILDKITE_BRANCH": "main",
            "BUILDKITE_COMMIT": "abc",
            "BUILDKITE_PULL_REQUEST": "false",
        },
        ("Buildkite", "8", "https://buildkite.com/8", None, "main", "abc"),
    ),
    (
        {
            "TF_BUILD": "True",
            "BUILD_BUILDID": "9",
            "SYSTEM_COLLECTIONURI": "https://dev.azure.com/team/",
            "SYSTEM_TEAMPROJECT": "proj",
            "SYSTEM_PULLREQUEST_SOURCEBRANCH": "refs/heads/topic",
            "SYSTEM_PULLREQUEST_PULLREQUESTNUMBER": "11",
            "BUILD_SOURCEBRANCHNAME": "merge",
            "BUILD_SOURCEVERSION": "abc",
        },
        (
            "Azure Pipelines",
            "9",
            "https://dev.azure.com/team/proj/_build/results?buildId=9",
            "11",
            "topic",
            "abc",
        ),
    ),
]
TAGS = (
    "mlctx.ci.provider",
    "mlctx.ci.build",
    "mlctx.ci.address",
    "mlctx.ci.pull_request",
    "mlflow.source.git.branch",
    "mlflow.source.git.commit",
)


@pytest.mark.parametrize(("environ", "expected"), CI, ids=[expected[0] for _, expected in CI])
def test_the_build_of_a_ci(environ: dict[str, str], expected: tuple[str | None, ...], tmp_path: Path) -> None:
    tags = source.tags("pytest -q", tmp_path, environ)
    assert tuple(tags.get(tag) for tag in TAGS) == expected
    assert tags["mlflow.source.name"] == "pytest -q"


def test_the_commit_and_branch_of_the_checkout(tmp_path: Path) -> None:
    def git(*args: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e@x")
        command = ("git", "-C", str(tmp_path), *identity, *args)
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    git("init", "-q", "-b", "topic")
    assert source.tags("", tmp_path, {}).get("mlflow.source.git.commit") is None
    git("commit", "-q", "--allow-empty", "-m", "first")
    tags = source.tags("", tmp_path, {})
    assert tags["mlflow.source.git.branch"] == "topic"
    assert tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    git("checkout", "-q", "--detach")
    assert "mlflow.source.git.branch" not in source.tags("", tmp_path, {})


def test_no_checkout_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert source.tags("c", tmp_path, {}) == {"mlflow.source.type": "LOCAL", "mlflow.source.name": "c"}
    monkeypatch.setenv("PATH", "")
    assert source.tags("c", tmp_path, {}) == {"mlflow.source.type": "LOCAL", "mlflow.source.name": "c"}
