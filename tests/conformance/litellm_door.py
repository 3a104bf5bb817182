"""Who may use the LiteLLM proxy: its own hook for keys, because without a database it knows no other way to refuse one by 401.

Runs in LiteLLM's environment, never in the project's.
"""

from __future__ import annotations

import os

from fastapi import HTTPException, Request
from litellm.proxy._types import UserAPIKeyAuth


async def admit(request: Request, api_key: str) -> UserAPIKeyAuth:
    if api_key != os.environ["LITELLM_MASTER_KEY"]:
        raise HTTPException(status_code=401, detail="no such key")
    return UserAPIKeyAuth(api_key=api_key)
