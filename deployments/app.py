"""Wires the Serve applications that serve_config.yaml names.

Builders run once per deploy inside the cluster. They read settings and the hardware profile, prepare the models and
stores a fresh machine lacks, and bind undecorated classes with the profile's numbers.
"""

import logging

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

from aihub.core.errors import StorageUnavailableError
from aihub.core.profiles import Profile, load_profile
from aihub.core.settings import Settings, is_loopback, own_names, parse_names
from aihub.models.memory.installed_models import DefaultModel
from aihub.models.store.default_models import (
    hub_key,
    prepare_chat_model,
    prepare_embedding_model,
    select_chat_model,
    select_embedding_model,
)
from deployments.options import serve_options
from deployments.ray_compat import read_listen_host

logger = logging.getLogger(__name__)


class AppArgs(BaseModel):
    """The `args` of an application in serve_config.yaml; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")

    profile: str = "auto"


def read_profile(args: AppArgs, settings: Settings) -> Profile:
    """`AIHUB_PROFILE` wins over the file, and `auto` lets the machine decide; `MAX_LENGTH` wins over the profile's context."""
    profile = load_profile(settings.profile or (None if args.profile == "auto" else args.profile))
    return profile.with_max_length(settings.max_length)


def build_embeddings(args: AppArgs) -> Application:
    """Build the `embeddings` application."""
    from deployments.embeddings import EmbeddingsDeployment

    settings = Settings()
    profile = read_profile(args, settings)
    choice = select_embedding_model(settings, profile)
    model_path = prepare_embedding_model(choice.source, settings, backend=profile.embeddings.backend)
    deployment = serve.deployment(EmbeddingsDeployment, name="Embeddings", **serve_options(profile.embeddings))
    return deployment.bind(
        model_path=str(model_path),
        model_id=choice.model_id,
        device=profile.device,
        profile=profile.embeddings,
    )


def build_models(args: AppArgs) -> Application:
    """Build the `models` application: the registry and the lifecycle of local models. One replica, beside its state folder."""
    from aihub.core.migrate import upgrade
    from deployments.models import Models
    from deployments.stores import connect_stores

    settings = Settings()
    profile = read_profile(args, settings)
    settings = connect_stores(settings)
    assert settings.database_url is not None  # noqa: S101  # connect_stores() has set it
    try:
        upgrade(settings.database_url.get_secret_value())
    except StorageUnavailableError as error:
        # Models are served without PostgreSQL; fine-tuning waits for it.
        logger.warning("%s", error.message)
    choice = select_chat_model(settings, profile)
    path = prepare_chat_model(choice.source, settings)
    key = str(hub_key(choice.source) or (choice.source if ":" in choice.source else f"local:{path.name}"))
    options = serve_options(profile.hub, autoscaling_config=None, num_replicas=1, health_check_timeout_s=30.0)
    # The state folder lies on the head node's disk.
    options["ray_actor_options"] = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
    deployment = serve.deployment(Models, name="Models", **options)
    return deployment.bind(settings=settings, profile=profile, default=DefaultModel(choice.model_id, key, path))


def build_recsys(args: AppArgs) -> Application:
    """Build the `recsys` application: answers of each store's models, and trainings as Ray jobs."""
    from deployments.recsys import Recsys

    settings, listen_host = prepare_edge()
    profile = read_profile(args, settings)
    options = serve_options(profile.hub, autoscaling_config=None, num_replicas=1)
    # Models lie in the state folder, on the head node's disk.
    options["ray_actor_options"] = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
    return serve.deployment(Recsys, name="Recsys", **options).bind(settings=settings, is_local=is_loopback(listen_host))


def build_speech(args: AppArgs) -> Application:
    """Build the `speech` application: recognition of files and live streams. One replica, which keeps the live streams."""
    from deployments.speech import Speech

    settings = Settings()
    profile = read_profile(args, settings)
    options = serve_options(profile.speech, autoscaling_config=None, num_replicas=1)
    # Models lie in the state folder, on the head node's disk.
    options["ray_actor_options"] = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
    return serve.deployment(Speech, name="Speech", **options).bind(settings=settings, profile=profile.speech)


def build_hub(args: AppArgs) -> Application:
    """Build the `hub` application: the ingress and its pipelines."""
    from deployments.ingress import Ingress

    settings, listen_host = prepare_edge()
    profile = read_profile(args, settings)
    embedding_choice = select_embedding_model(settings, profile)
    embedding_model_path = prepare_embedding_model(embedding_choice.source, settings, backend=profile.embeddings.backend)
    deployment = serve.deployment(serve.ingress()(Ingress), name="Ingress", **serve_options(profile.hub))
    return deployment.bind(
        settings=settings,
        profile=profile,
        model_id=select_chat_model(settings, profile).model_id,
        tokenizer_path=str(embedding_model_path / "tokenizer.json"),
        is_local=is_loopback(listen_host),
    )


def prepare_edge() -> tuple[Settings, str]:
    """Make ready what answers requests from outside needs: stores, the newest tables, and keys where other machines reach it.

    Returns:
        Settings with the addresses of the stores, and the address that Serve listens on.

    Raises:
        ConfigurationError: Other machines reach the hub, and it has no key yet.
        StorageUnavailableError: PostgreSQL does not answer.
    """
    from aihub.accounts.first_key import require_keys
    from aihub.core.migrate import upgrade
    from deployments.stores import connect_stores

    listen_host = read_listen_host()
    settings = connect_stores(with_own_names(Settings(), listen_host))
    assert settings.database_url is not None  # noqa: S101  # connect_stores() has set it
    dsn = settings.database_url.get_secret_value()
    upgrade(dsn)
    require_keys(dsn, listen_host)
    return settings, listen_host


def with_own_names(settings: Settings, listen_host: str) -> Settings:
    """Also allow this machine's own names where other machines reach the hub, which is what people call it by."""
    if is_loopback(listen_host):
        return settings
    return settings.model_copy(update={"allowed_hosts": parse_names([*settings.allowed_hosts, *own_names()])})
