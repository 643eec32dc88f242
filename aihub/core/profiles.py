"""Hardware profiles: `configs/profiles/*.yaml` as typed objects.

A profile carries everything that depends on the machine: GPU fractions, memory shares, replicas, queue limits and
default models. Unknown keys are refused, so a typo never silently falls back to a default.
"""

import shutil
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from aihub.core.errors import ConfigurationError
from aihub.core.limits import AnswerTokens, Temperature, TopK, TopP
from aihub.core.typed_configuration import load_typed_yaml

PROFILES_DIR = Path(__file__).resolve().parents[2] / "configs" / "profiles"


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Autoscaling(StrictModel):
    """Replica bounds and the load one replica should carry (Ray Serve `autoscaling_config`)."""

    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 1
    target_ongoing_requests: PositiveFloat = 8.0
    upscale_delay_s: NonNegativeFloat = 30.0
    downscale_delay_s: NonNegativeFloat = 600.0

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas must be at least min_replicas")
        return self


class DeploymentProfile(StrictModel):
    """What every deployment needs to know of the machine.

    Attributes:
        num_cpus: Ray CPUs one replica reserves.
        num_gpus: Fraction of one GPU one replica reserves.
        max_ongoing_requests: Requests inside one replica at a time.
        max_queued_requests: Requests that may wait per caller; further ones get 503 with Retry-After at once.
    """

    num_cpus: NonNegativeFloat = 0.0
    num_gpus: float = Field(default=0.0, ge=0.0, le=1.0)
    max_ongoing_requests: PositiveInt
    max_queued_requests: NonNegativeInt
    autoscaling: Autoscaling = Autoscaling()


class AdapterProfile(StrictModel):
    """LoRA adapters beside each model that can have some; their buffers are allocated with the model.

    Attributes:
        max_loaded: Adapters that answer at the same time; requests for further ones wait for a place.
        max_rank: Of any adapter; vLLM compiles for these.
    """

    max_loaded: PositiveInt = 2
    max_rank: Literal[8, 16, 32, 64, 128, 256, 512] = 64


class LLMProfile(DeploymentProfile):
    """The vLLM deployment.

    Attributes:
        model_id: Name clients send.
        model_source: `package:smollm2`, a local folder or a hub id.
        num_gpus: Share of the card meant for chat models.
        gpu_memory_utilization: The most of the card one model may take, weights and KV cache together, before it gets a
            smaller batch; must fit `num_gpus`.
        cpu_kv_cache_gb: KV cache of the CPU engine in GiB.
        max_model_len: Prompt plus answer in tokens.
        max_num_seqs: Sequences decoded together.
        dtype: `auto` is the model's own on a GPU; on a CPU bfloat16 where the CPU multiplies it natively, else float32.
        adapters: None serves no adapters.
    """

    model_id: str
    model_source: str
    gpu_memory_utilization: float | None = Field(default=None, gt=0.0, le=1.0)
    cpu_kv_cache_gb: PositiveInt | None = None
    max_model_len: PositiveInt
    max_num_seqs: PositiveInt
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    enforce_eager: bool = False
    quantization: str | None = None
    tool_call_parser: str | None = None
    adapters: AdapterProfile | None = None

    @model_validator(mode="after")
    def _memory_share_fits_reservation(self) -> Self:
        if self.num_gpus and self.gpu_memory_utilization is None:
            raise ValueError("gpu_memory_utilization is required when num_gpus is set")
        if self.gpu_memory_utilization is not None and self.gpu_memory_utilization > self.num_gpus:
            raise ValueError("gpu_memory_utilization must not exceed num_gpus, the reserved share of the card")
        return self


class EmbeddingsProfile(DeploymentProfile):
    """The embeddings deployment.

    Attributes:
        backend: Runtime of the encoder. `openvino` computes in int8 on the CPU, within .003 nDCG of `torch`, which is float32
            (`make bench-retrieval`); models outside the BERT family run on torch all the same.
        max_batch_tokens: Padded tokens of one forward pass; 512 fit the cache of a CPU, a GPU wants tens of thousands.
    """

    model_id: str
    model_source: str
    backend: Literal["torch", "openvino"] = "torch"
    languages: tuple[str, ...] = ("en",)
    max_batch_tokens: PositiveInt = 512


class HubProfile(DeploymentProfile):
    """The ingress with its pipelines, and the document worker.

    Attributes:
        parser_processes: Limited child processes which parse documents.
        parser_memory_mb: MiB one document may take beyond what the idle process has.
    """

    parser_processes: PositiveInt = 1
    parser_memory_mb: PositiveInt = 2048


class SpeechProfile(DeploymentProfile):
    """Speech recognition, one replica beside its models on the head node; its processes run on the CPU.

    Attributes:
        parallel_parts: Parts of audio files that are heard at the same time, of all requests; one for each core when None.
        max_streams: Live streams at the same time; eight for each core when None, which small models hear in real time.
    """

    max_ongoing_requests: PositiveInt = 128
    max_queued_requests: NonNegativeInt = 128
    parallel_parts: PositiveInt | None = None
    max_streams: PositiveInt | None = None


class GenerationProfile(StrictModel):
    """What requests to local models get where neither they, the operator nor the model's authors say anything."""

    max_tokens: AnswerTokens = 1000
    temperature: Temperature = 0.7
    top_p: TopP = 0.9
    top_k: TopK = 50


class Profile(StrictModel):
    """One machine kind."""

    name: str
    device: Literal["cpu", "cuda"]
    gpu_memory_gb: NonNegativeFloat = 0.0
    hub: HubProfile
    llm: LLMProfile
    embeddings: EmbeddingsProfile
    speech: SpeechProfile = SpeechProfile()
    generation: GenerationProfile = GenerationProfile()

    def with_max_length(self, max_length: int | None) -> Self:
        """Return the profile with another longest context, in tokens (MAX_LENGTH); itself when None."""
        if max_length is None:
            return self
        return self.model_copy(update={"llm": self.llm.model_copy(update={"max_model_len": max_length})})

    @property
    def gpu_fraction_total(self) -> float:
        """Share of one card reserved when every deployment stands at its smallest size."""
        parts: tuple[DeploymentProfile, ...] = (self.hub, self.llm, self.embeddings)
        return sum(p.num_gpus * p.autoscaling.min_replicas for p in parts)

    @model_validator(mode="after")
    def _fits_one_card(self) -> Self:
        if self.gpu_fraction_total > 1.0 + 1e-9:
            raise ValueError(f"num_gpus of all deployments add up to {self.gpu_fraction_total:.2f}; one card has 1.0")
        if self.device == "cpu" and self.gpu_fraction_total:
            raise ValueError("a cpu profile cannot reserve a GPU")
        return self


def detect_profile_name() -> str:
    """`rtx4060ti` where an NVIDIA driver is installed, else `cpu`."""
    return "rtx4060ti" if shutil.which("nvidia-smi") else "cpu"


def load_profile(name: str | None = None, directory: Path = PROFILES_DIR) -> Profile:
    """Load `<name>.yaml`, chosen by the machine when `name` is None.

    Raises:
        ConfigurationError: No such profile, or a key or value in it is wrong; the message names each.
    """
    chosen = name or detect_profile_name()
    known = sorted(p.stem for p in directory.glob("*.yaml"))
    if chosen not in known:
        raise ConfigurationError(f"No profile named {chosen!r}. Set AIHUB_PROFILE to one of: {', '.join(known)}.")
    path = directory / f"{chosen}.yaml"
    profile = load_typed_yaml(path, Profile, what="Profile")
    if profile.name != chosen:
        raise ConfigurationError(f"Profile {path.name} calls itself {profile.name!r}; make both names equal.")
    return profile
