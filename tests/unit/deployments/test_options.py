from aihub.core.profiles import Autoscaling, DeploymentProfile
from deployments.options import serve_options


def options_of(minimum: int, maximum: int) -> dict[str, object]:
    scaling = Autoscaling(min_replicas=minimum, max_replicas=maximum)
    return serve_options(DeploymentProfile(max_ongoing_requests=8, max_queued_requests=8, autoscaling=scaling))


def test_a_fixed_number_of_replicas_is_told_as_such_so_that_nobody_counts_for_a_decision() -> None:
    options = options_of(2, 2)
    assert (options["num_replicas"], options["autoscaling_config"]) == (2, None)


def test_bounds_that_differ_are_left_to_the_autoscaler() -> None:
    options = options_of(1, 3)
    assert "num_replicas" not in options
    assert options["autoscaling_config"] is not None
