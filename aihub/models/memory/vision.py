"""What a model that sees takes: tokens of context for an image, and memory of its encoder; told by `config.json` alone.

The numbers are those of transformers' image processors. Where a model takes images of any size, their pixels are bounded, so
that one image leaves most of the context to text and the encoder's memory is known before the engine starts. A model whose images
cannot be counted for sure is served without them.
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
_TOWERS = frozenset({"clip_vision_model", "siglip_vision_model"})
"""Encoders of LLaVA that make every image the same size."""
_KNOWN = ", ".join(sorted(_GRIDS | _TILES | {"gemma3", "llava", "mistral3"}))
_NEEDED_PACKAGES = dict.fromkeys(_GRIDS, ("torchvision",)) | {"smolvlm": ("torchvision", "num2words")}
_MARKER_TOKENS = 8  # Around an image or a tile; where a marker is no token of its own, it is spelled.
_LARGEST_DIMENSION = 2**24


@dataclass(frozen=True, slots=True)
class VisionSupport:
    """How images reach a model.

    Attributes:
        image_tokens: Tokens of context one image takes at most.
        max_images: Images one request may hold; 0 for a model that has an encoder and is served without it.
        encoder_bytes: Memory of the encoder while it works, and of its results until the decoder has read them.
        processor_arguments: What bounds the pixels, as the model's image processor calls it.
        doubt: Why it is served without images; None where it is not.
    """

    image_tokens: int
    max_images: int = MAX_IMAGES
    encoder_bytes: int = 0
    processor_arguments: Mapping[str, Any] = field(default_factory=dict)
    doubt: str | None = None


def read_vision(folder: Path, config: Mapping[str, Any], *, context_tokens: int, value_bytes: int = 2) -> VisionSupport | None:
    """Return how the model of a folder sees; None for a model that has no image encoder.

    Where it is not known for sure what its images take, or one is larger than the context, it takes none: `max_images` is 0, and
    `doubt` says why.

    Args:
        config: Its parsed `config.json`.
        context_tokens: Prompt plus answer.
        value_bytes: Of one number the engine computes with.

    Raises:
        ConfigurationError: A package that its image processor is written with is missing, or a file is not JSON.
    """
    if not has_vision(config):
        return None
    require_packages(config)
    try:
        vision = vision_of_config(config, context_tokens=context_tokens, value_bytes=value_bytes, processor=_processor(folder))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return _without_images(f"what an image takes cannot be told ({error})")
    if vision.image_tokens >= context_tokens:
        return _without_images(f"an image takes {vision.image_tokens} tokens, and the context has {context_tokens} in all")
    return vision


def _without_images(doubt: str) -> VisionSupport:
    return VisionSupport(image_tokens=0, max_images=0, doubt=doubt)


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
        ValueError: A dimension is not a sensible number, or nobody has checked what images of this kind of model take.
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
    elif kind == "mistral3":
        patches_per_token = _side(config, 2) ** 2
        image_tokens, arguments = _rows(config, bound_tokens, processor or {})
    elif kind == "gemma3":
        if (processor or {}).get("do_pan_and_scan"):
            raise ValueError("its image processor cuts crops out of images")
        image_tokens = _dimension(config, "mm_tokens_per_image", 256)
        patches_per_token = max(_patches(encoder) // image_tokens, 1)
    elif kind == "llava" and encoder.get("model_type", "clip_vision_model") in _TOWERS:
        image_tokens = _patches(encoder)
    else:
        raise ValueError(f"{_named(kind, encoder)} is not among the kinds that are known: {_KNOWN}")
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


def _rows(config: Mapping[str, Any], bound_tokens: int, processor: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Mistral 3 keeps an image's proportions too, up to a longest edge: rows of tokens, each with one more that ends it."""
    unit_pixels = _dimension(config["vision_config"], "patch_size", 14) * _side(config, 2)
    largest = int((processor.get("size") or {}).get("longest_edge") or _dimension(config["vision_config"], "image_size", 1540))
    side = max(largest // unit_pixels, 1)
    while side > 1 and side * (side + 1) > bound_tokens:
        side -= 1
    return side * (side + 1), {"size": {"longest_edge": side * unit_pixels}}


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


def _side(config: Mapping[str, Any], default: int = 1) -> int:
    """Patches beside each other that become one token; the encoder's to say, but in Mistral 3 the whole model's."""
    return _dimension(config, "spatial_merge_size", default)


def _named(kind: str, encoder: Mapping[str, Any]) -> str:
    return f"{kind} with an encoder {encoder['model_type']}" if kind == "llava" else kind


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
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:  # height and width, in some newer files
        value = value[0]
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
