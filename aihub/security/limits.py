"""Numbers that bound what one request may ask for, in one place.

A limit protects the machine, not the model: a request inside all of them may still not fit the model's context.
"""

MAX_HEADER_BYTES = 64 * 2**10
"""Names and values of all headers together."""

MAX_JSON_DEPTH = 64
MAX_JSON_MEMBERS = 200_000
"""Objects, lists and keys of one body; plain list items are bounded by the body's size."""

MAX_MESSAGES = 2_000
MAX_TEXT_CHARS = 1_000_000
"""Text of all messages (or prompts) together; about 250,000 tokens of English."""

MAX_TOOLS = 128
MAX_PROMPTS = 16
MAX_PROMPT_TOKENS = 262_144
MAX_CHOICES = 8
MAX_ANSWER_TOKENS = 2**20
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_LOGIT_BIASES = 300
MAX_TOP_LOGPROBS = 20
MAX_COMPLETION_LOGPROBS = 5

MAX_SCHEMA_BYTES = 16 * 2**10
MAX_SCHEMA_DEPTH = 8
MAX_SCHEMA_COUNT = 1_000
"""Largest `maxItems`, `maxLength` and the like: the grammar compiler unrolls them."""

MAX_LENGTH_LIMITED_STRINGS = 4
"""Each takes xgrammar 0.2.x about a second of CPU to compile at 50,000 tokens of vocabulary; other keywords take milliseconds."""

MAX_STORES_PER_QUESTION = 10
MAX_RETRIEVED_CHUNKS = 50
