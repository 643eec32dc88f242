"""Numbers that bound what one request may ask for, in one place."""

from typing import Annotated

from pydantic import Field

MAX_HEADER_BYTES = 64 * 2**10
"""Names and values of all headers together."""

MAX_JSON_DEPTH = 64
MAX_JSON_MEMBERS = 200_000
"""Objects, lists and keys of one body; plain list items are bounded by the body's size."""

MAX_MESSAGES = 2_000
MAX_TEXT_CHARS = 1_000_000
"""Text of all messages (or prompts) together; about 250,000 tokens of English."""

MAX_MEDIA_PARTS = 32
"""Images, recordings, videos and files of all messages together."""

MAX_IMAGE_BYTES = 20 * 2**20
MAX_MEDIA_BYTES = 64 * 2**20
"""Of one recording, video or file, and of everything a request makes the hub read beside its body."""

MAX_RECORDING_S = 1_800.0
"""A recording or video in a chat request; longer ones belong into a vector store."""

MAX_VIDEO_FRAMES = 8
IMAGE_PIXELS = 1_003_520
"""Most pixels of an image that a model is shown: 1,280 squares of 28 by 28, which is what most vision models read anyway."""

LOW_DETAIL_PIXELS = 262_144
"""The same for `detail: low`, as 512 by 512, and for frames of a video."""

MAX_TOOLS = 128
MAX_PROMPTS = 16
MAX_PROMPT_TOKENS = 262_144
MAX_CHOICES = 8
MAX_ANSWER_TOKENS = 2**20
MAX_STOPS = 16
MAX_CACHE_TTL_S = 604_800
MAX_STOP_CHARS = 256
MAX_LOGIT_BIASES = 300
MAX_TOP_LOGPROBS = 20
MAX_COMPLETION_LOGPROBS = 5

MAX_TOOLS_BYTES = 2**20
"""All tools of a request together; they are read with the prompt."""

# Of schemas that are compiled to a grammar; measured with xgrammar 0.2.8 at 49,000 tokens of vocabulary.
MAX_SCHEMA_BYTES = 32 * 2**10
MAX_COMPILED_BYTES = 128 * 2**10
"""All schemas of one request together."""

MAX_SCHEMA_DEPTH = 24
MAX_SCHEMA_PROPERTIES = 256
"""Of one object: 200 take .12 s of CPU, 1,000 take 5 s."""

MAX_SCHEMA_ITEMS = 10_000
"""Largest `maxItems` and the like; llguidance, which vLLM falls back to, writes them out and takes .8 GiB for 100,000."""

MAX_SCHEMA_LENGTH = 2**31 - 1
"""Largest `maxLength`; the cost does not grow with it."""

MAX_LENGTH_LIMITS = 8
"""Different length limits and long patterns: each takes about a second of CPU to compile, however often it is used."""

CHEAP_MIN_LENGTH = 16
CHEAP_PATTERN_COST = 32

MAX_STORES_PER_QUESTION = 10
MAX_RETRIEVED_CHUNKS = 50
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]
AnswerTokens = Annotated[int, Field(ge=1, le=MAX_ANSWER_TOKENS)]
Temperature = Annotated[float, Field(ge=0.0, le=2.0)]
TopP = Annotated[float, Field(gt=0.0, le=1.0)]
TopK = Annotated[int, Field(ge=-1, le=2**20)]
MinP = Annotated[float, Field(ge=0.0, le=1.0)]
RepetitionPenalty = Annotated[float, Field(gt=0.0, le=2.0)]
