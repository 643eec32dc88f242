"""Call the running hub from another Ray job: chat, a streamed answer, embeddings and generate_answer.

Submit it to the cluster of a running hub (`make serve`), from the project's folder:

    RAY_AUTH_MODE=token .venv/bin/ray job submit --address http://127.0.0.1:8265 -- \\
        $PWD/.venv/bin/python $PWD/examples/handle_call.py
"""

import asyncio

import ray

from aihub.core.errors import HubError
from deployments.client import HubClient


async def main() -> None:
    hub = HubClient()

    answer = await hub.chat([{"role": "user", "content": "Name the capital of France."}], max_tokens=32, temperature=0)
    print("chat:            ", answer["choices"][0]["message"]["content"])

    print("stream:          ", end=" ")
    async for text in hub.stream_chat([{"role": "user", "content": "Count from one to five."}], max_tokens=32, temperature=0):
        print(text, end="", flush=True)
    print()

    first, second = await hub.embed(["Giờ mở cửa của cửa hàng", "Cửa hàng mở cửa lúc mấy giờ?"])
    print(
        "embed:           ", f"{len(first)} dimensions, similarity {sum(a * b for a, b in zip(first, second, strict=True)):.2f}"
    )

    grounded = await hub.generate_answer(
        "When does the shop open?", context="The shop in Da Nang opens at 8:30 and closes at 21:00.", max_tokens=48, temperature=0
    )
    print("generate_answer: ", grounded.answer)

    try:
        await hub.chat([{"role": "user", "content": "Hello"}], model="no-such-model")
    except HubError as error:
        print("error:           ", error.status, error.code, "-", error.message)


if __name__ == "__main__":
    ray.init(address="auto", log_to_driver=False)
    asyncio.run(main())
