"""What a model that sees takes: tokens of context for an image, and memory of its encoder; told by `config.json` alone.

The numbers are those of transformers' image processors. Where a model takes images of any size, their pixels are bounded, so
that one image leaves most of the context to text and the encoder's memory is known before the engine starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aihub.core.errors import ConfigurationError
from aihub.core.model_folder import read_json

MAX_IMAGES = 16
"""Of one request; what the context holds bounds large ones further."""

IMAGE_TOKENS = 1024
"""The most an image takes where the model leaves it open: about a megapixel, enough for a page of print."""

IMAGES_PER_CONTEXT = 4
"""Largest images that a context has room for, where the model leaves their size open."""

CACHE_BYTES = 256 * 2**20
"""RAM for images that are ready for the encoder, so that the next turn of a conversation does not prepare them again."""

BATCHED_TOKENS = 2048
"""Image tokens the engine encodes in one step, one image at least: vLLM's default of `max_num_batched_tokens`."""

_GRIDS = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"})
_TILES = frozenset({"idefics3", "smolvlm"})
_NEEDED_PACKAGES = dict.fromkeys(_GRIDS, ("torchvision",)) | {"smolvlm": ("torchvision", "num2words")}
_MARKER_TOKENS = 8  # Around an image or a tile; where a marker is no token of its own, it is spelled.
_LARGEST_DIMENSION = 2**24


@dataclass(frozen=True, slots=True)
class VisionSupport:
    """How images reach a model.

    Attributes:
        image_tokens: Tokens of context one image takes at most.
        max_images: Images one request may hold.
        encoder_bytes: Memory of the encoder while it works, and of its results until the decoder has read them.
        processor_arguments: What bounds the pixels, as the model's image processor calls it.
    """

    image_tokens: int
    max_images: int = MAX_IMAGES
    encoder_bytes: int = 0
    processor_arguments: Mapping[str, Any] = field(default_factory=dict)


def read_vision(folder: Path, config: Mapping[str, Any], *, context_tokens: int, value_bytes: int = 2) -> VisionSupport | None:
    """Return how the model of a folder sees; None for a model that reads text only.

    Args:
        config: Its parsed `config.json`.
        context_tokens: Prompt plus answer.
        value_bytes: Of one number the engine computes with.

    Raises:
        ConfigurationError: The engine cannot take images of this model: a package is missing, `config.json` is wrong, or one
            image is larger than the context.
    """
    if not has_vision(config):
        return None
    require_packages(config)
    try:
        vision = vision_of_config(config, context_tokens=context_tokens, value_bytes=value_bytes, processor=_processor(folder))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{folder / 'config.json'} does not describe how the model sees ({error}). Fetch the model again."
        ) from error
    if vision.image_tokens >= context_tokens:
        raise ConfigurationError(
            f"An image takes {vision.image_tokens} tokens, and the context has {context_tokens} in all. Raise MAX_LENGTH."
        )
    return vision


def has_vision(config: Mapping[str, Any]) -> bool:
    """Whether a parsed `config.json` has an image encoder."""
    return isinstance(config.get("vision_config"), dict) and bool(config["vision_config"])


def require_packages(config: Mapping[str, Any]) -> None:
    """Check that what the model's image processor is written with is installed.

    Raises:
        ConfigurationError: It is not; the message names the package.
    """
    kind = str(config.get("model_type"))
    missing = [name for name in _NEEDED_PACKAGES.get(kind, ()) if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"Models of the kind {kind} need the Python package {' and '.join(missing)}, which this installation lacks."
        )


def vision_of_config(
    config: Mapping[str, Any], *, context_tokens: int, value_bytes: int = 2, processor: Mapping[str, Any] | None = None
) -> VisionSupport:
    """Compute it from a parsed `config.json` with a `vision_config`.

    Args:
        processor: The settings of the model's image processor; the architecture's own when None.

    Raises:
        KeyError: A dimension is missing.
        ValueError: A dimension is not a sensible number.
    """
    kind, encoder = str(config.get("model_type")), config["vision_config"]
    bound_tokens = max(min(IMAGE_TOKENS, context_tokens // IMAGES_PER_CONTEXT), 1)
    arguments: dict[str, Any] = {}
    patches_per_token = _side(encoder) ** 2
    if kind in _GRIDS:
        image_tokens, arguments = _grid(encoder, bound_tokens, processor or {})
    elif kind in _TILES:
        patches_per_token = _dimension(config, "scale_factor", 2) ** 2
        image_tokens, arguments = _tiles(encoder, patches_per_token, bound_tokens, processor or {})
    elif "mm_tokens_per_image" in config:
        image_tokens = _dimension(config, "mm_tokens_per_image")
        patches_per_token = max(_patches(encoder) // image_tokens, 1)
    else:
        image_tokens = _patches(encoder) // patches_per_token
    tokens = max(BATCHED_TOKENS, image_tokens)
    working_bytes = tokens * patches_per_token * _patch_bytes(encoder, value_bytes)
    kept_bytes = tokens * _output_values(config) * value_bytes
    return VisionSupport(image_tokens + _MARKER_TOKENS, MAX_IMAGES, working_bytes + kept_bytes, arguments)


def _grid(encoder: Mapping[str, Any], bound_tokens: int, processor: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Qwen-VL keeps an image's proportions: one token for each square of patches, up to a number of pixels."""
    unit_pixels = (_dimension(encoder, "patch_size", 14) * _side(encoder)) ** 2
    sizes = processor.get("size") or {}
    least_pixels = processor.get("min_pixels") or sizes.get("shortest_edge") or 4 * unit_pixels
    most_pixels = processor.get("max_pixels") or sizes.get("longest_edge") or bound_tokens * unit_pixels
    image_tokens = max(min(bound_tokens, int(most_pixels) // unit_pixels), 1)
    # The image processor wants both, and compares them in pixels whatever their names say.
    longest = image_tokens * unit_pixels
    return image_tokens, {"size": {"shortest_edge": min(int(least_pixels), longest), "longest_edge": longest}}


def _tiles(
    encoder: Mapping[str, Any], patches_per_token: int, bound_tokens: int, processor: Mapping[str, Any]
) -> tuple[int, dict[str, Any]]:
    """Idefics3 and SmolVLM cut an image into tiles of the encoder's size, and add the whole image as one more."""
    tile_pixels = int((processor.get("max_image_size") or {}).get("longest_edge") or _dimension(encoder, "image_size"))
    largest = int((processor.get("size") or {}).get("longest_edge") or 4 * tile_pixels)
    tile_tokens = _patches(encoder) // patches_per_token + _MARKER_TOKENS
    side = max(largest // tile_pixels, 1)
    while side > 1 and (side**2 + 1) * tile_tokens > bound_tokens:
        side -= 1
    return (side**2 + 1) * tile_tokens, {"size": {"longest_edge": side * tile_pixels}}


def _patches(encoder: Mapping[str, Any]) -> int:
    """Of an image of the size the encoder was made for."""
    return (_dimension(encoder, "image_size", 448) // _dimension(encoder, "patch_size", 14)) ** 2


def _side(encoder: Mapping[str, Any]) -> int:
    """Patches beside each other that become one token."""
    return _dimension(encoder, "spatial_merge_size", 1)


def _patch_bytes(encoder: Mapping[str, Any], value_bytes: int) -> int:
    """Of one patch in one block: residuals, queries, keys and values, both halves of the MLP; and its pixels, as float32."""
    hidden = encoder.get("embed_dim") or encoder.get("hidden_size") or 1024
    wide = encoder.get("intermediate_size") or int(hidden * encoder.get("mlp_ratio", 4))
    pixels = 3 * _dimension(encoder, "patch_size", 14) ** 2 * int(encoder.get("temporal_patch_size", 1))
    return (8 * int(hidden) + 2 * int(wide)) * value_bytes + 4 * pixels


def _output_values(config: Mapping[str, Any]) -> int:
    """Values of one image token that the decoder reads; Qwen3-VL adds those of some layers in between."""
    text = config.get("text_config") or config
    return _dimension(text, "hidden_size") * (1 + len(config["vision_config"].get("deepstack_visual_indexes") or ()))


def _dimension(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value: object = config[name] if default is None else config.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST_DIMENSION:
        raise ValueError(f"{name} is {value!r}")
    return value


def _processor(folder: Path) -> Mapping[str, Any]:
    """Settings of the image processor: newer folders keep those of all processors in one file."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        document = read_json(folder / name) if (folder / name).is_file() else {}
        if isinstance(document, dict):
            settings = document.get("image_processor", document)
            if isinstance(settings, dict) and ("size" in settings or "max_pixels" in settings):
                return settings
    return {}
