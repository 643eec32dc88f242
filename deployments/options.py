"""From a hardware profile to Ray Serve's deployment options, and from the configuration to the lifecycle's numbers."""

from typing import Any

from aihub.core.profiles import DeploymentProfile
from aihub.models.configuration import HubConfiguration
from aihub.models.memory.manager_state import LifecyclePolicy


def serve_options(profile: DeploymentProfile, **changes: Any) -> dict[str, Any]:
    """Translate a profile's numbers into Ray Serve deployment options."""
    scaling = profile.autoscaling
    options: dict[str, Any] = {
        "max_ongoing_requests": profile.max_ongoing_requests,
        "max_queued_requests": profile.max_queued_requests,
        "ray_actor_options": {"num_cpus": profile.num_cpus, "num_gpus": profile.num_gpus},
        "health_check_period_s": 2.0,
        "health_check_timeout_s": 10.0,
        "graceful_shutdown_timeout_s": 20.0,
    }
    if scaling.min_replicas == scaling.max_replicas:
        # With bounds, replicas and handles count for the controller, which decides anew at every turn, what is fixed anyway.
        options |= {"autoscaling_config": None, "num_replicas": scaling.min_replicas}
    else:
        options["autoscaling_config"] = scaling.model_dump()
    return options | changes


TICK_S = 4.0
"""Each fifth tick asks Serve's controller which applications run, and measures them."""


def policy_of(configuration: HubConfiguration) -> LifecyclePolicy:
    """Return the policy that these settings ask for."""
    return LifecyclePolicy(
        unload_timeout_s=configuration.model_unload_timeout_s,
        sleep_timeout_s=configuration.model_sleep_timeout_s,
        max_concurrent_models=configuration.max_concurrent_models,
        min_residency_s=configuration.min_residency_s,
        tick_s=TICK_S,
    )
