"""LiteLLM's Router with the account's limits on its one deployment, asked under a semaphore."""

from __future__ import annotations

from litellm import Router
from work import KEY, MODEL, Answers, Work, gathered, messages, perform


async def answer_all(work: Work) -> Answers:
    limits = {"rpm": work.requests_per_minute, "tpm": work.tokens_per_minute}
    params = {"model": f"openai/{MODEL}", "api_base": work.base_url, "api_key": KEY}
    params |= {name: int(limit) for name, limit in limits.items() if limit is not None}
    router = Router(model_list=[{"model_name": MODEL, "litellm_params": params}])

    async def answer(prompt: str) -> str | None:
        completion = await router.acompletion(model=MODEL, messages=messages(prompt))
        return completion.choices[0].message.content

    return await gathered(answer, work)


if __name__ == "__main__":
    perform(answer_all, "litellm", "openai")
