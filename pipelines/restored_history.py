"""Speeds and error rates of models after a restart: what `auto` knew before, as rows of requests still tell it."""

import logging

from aihub.chat.history import EngineHistory
from aihub.core.errors import HubError
from aihub.usage.service import PastAnswers

logger = logging.getLogger(__name__)


async def restore_history(history: EngineHistory, answers: PastAnswers) -> None:
    """Give a new history the answers of the last hours; it stays empty while they cannot be read."""
    try:
        past = await answers.past_answers()
    except HubError as error:
        logger.warning("The speeds of models are learnt anew: %s", error.message)
        return
    for answer in past:
        if answer.is_failure:
            history.fail(answer.model, ago_s=answer.ago_s)
        else:
            history.succeed(
                answer.model,
                tokens=answer.tokens,
                seconds=answer.seconds,
                first_token_s=answer.first_token_s,
                ago_s=answer.ago_s,
            )
