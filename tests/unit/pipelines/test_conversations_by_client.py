"""The official client and the stored conversations of the hub, in one process over real PostgreSQL and Redis."""

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx2
import openai
import pytest
from fastapi import FastAPI

from aihub.core.embedded.stores import StoreUrls
from aihub.core.postgres import Database
from tests.unit.conftest import AS_ADMIN
from tests.unit.http.services import Parts
from tests.unit.pipelines.conversation_parts import StoredHub, stored_hub
