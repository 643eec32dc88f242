"""What is changed of Ray's own start: the parts of the dashboard, and a thread that watches the first deploy."""

from collections.abc import Iterator

import pytest

from aihub.core.errors import ConfigurationError
from aihub.core.settings import Settings
from deployments import launch, ray_compat
from deployments.ray_compat import ApplicationState


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """Commands of processes that Ray would start."""
    from ray._private import services

    commands: list[tuple[list[str], str]] = []
    monkeypatch.setattr(services, "start_ray_process", lambda command, kind, **_options: commands.append((command, kind)))
    return commands


def start(kind: str) -> None:
    from ray._private import services

    services.start_ray_process(["program"], kind, fate_share=True)


def test_only_the_dashboard_is_told_which_parts_to_start(started: list[tuple[list[str], str]]) -> None:
    ray_compat.choose_dashboard_modules(Settings().dashboard_modules)
    start("dashboard")
    start("raylet")
    assert started == [
        (["program", "--modules-to-load=JobHead,NodeHead,ReportHead,ServeHead,StateHead"], "dashboard"),
        (["program"], "raylet"),
    ]


def test_the_part_that_trainings_need_is_always_started(started: list[tuple[list[str], str]]) -> None:
    ray_compat.choose_dashboard_modules("NodeHead")
    start("dashboard")
    assert started[0][0][-1] == "--modules-to-load=JobHead,NodeHead"


def test_all_parts_are_rays_own_choice(started: list[tuple[list[str], str]]) -> None:
    ray_compat.choose_dashboard_modules("all")
    start("dashboard")
    assert started == [(["program"], "dashboard")]


def test_an_unknown_part_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="AIHUB_DASHBOARD_MODULES: the dashboard has no JobsHead. Choose from .*JobHead"):
        ray_compat.choose_dashboard_modules("JobsHead")


def test_every_named_part_exists_in_this_version_of_ray() -> None:
    from ray.dashboard.subprocesses.module import SubprocessModule
    from ray.dashboard.utils import DashboardHeadModule, get_all_modules

    there = {cls.__name__ for kind in (SubprocessModule, DashboardHeadModule) for cls in get_all_modules(kind)}
    assert ray_compat.DASHBOARD_MODULES <= there


@pytest.fixture
def statuses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """States of the applications at each look; the last look must end the watch."""
    import ray

    looks: list[dict[str, str]] = []

    def read_applications() -> dict[str, ApplicationState]:
        return {name: ApplicationState(state, "Traceback\nValueError: no room") for name, state in looks.pop(0).items()}

    monkeypatch.setattr(launch, "POLL_S", 0.0)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray_compat, "read_applications", read_applications)
    yield looks
    assert looks == []


def test_the_watch_ends_when_every_application_of_the_file_runs(
    statuses: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    statuses += [{}, {"hub": "RUNNING"}, {"hub": "RUNNING", "models": "RUNNING", "llm-tiny": "DEPLOYING"}]
    launch.report_failures({"hub", "models"})
    assert capsys.readouterr().out == ""


def test_the_first_failure_is_printed_with_its_last_line(
    statuses: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    statuses += [{"hub": "DEPLOYING"}, {"hub": "DEPLOY_FAILED"}]
    launch.report_failures({"hub"})
    assert capsys.readouterr().out == "DeployFailed: application 'hub': ValueError: no room\n"
