"""Parts are killed over and over, while a conversation goes on through it all."""

import os
import signal
from pathlib import Path

import pytest
from openai import OpenAI

from tests.support.processes import wait_until
from tests.support.stack import PARTS, RunningStack, running_stack

WAIT_S = 60.0
ROUNDS = 6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_conversation_outlives_every_part_many_times(tmp_path: Path) -> None:
    last_id = None
    with running_stack(tmp_path, workers=2) as stack, client(stack) as api:
        for _ in range(ROUNDS):
            for part in PARTS:
                last_id = turn(api, last_id)
                dead = stack.pids(part)
                for pid in dead:
                    os.kill(pid, signal.SIGKILL)

                def is_replaced(part: str = part, dead: list[int] = dead) -> bool:
                    return len(stack.pids(part)) == len(dead) and not set(stack.pids(part)) & set(dead)

                wait_until(is_replaced, timeout_s=WAIT_S, what=f"another {part}")
                stack.wait_until_ready()
        assert stack.stop() == 0
    with running_stack(tmp_path) as stack, client(stack) as api:  # and the stack itself
        turn(api, last_id)


def client(stack: RunningStack) -> OpenAI:
    return OpenAI(base_url=f"{stack.base_url}/v1", api_key="none", max_retries=0, timeout=WAIT_S)


def turn(api: OpenAI, previous: str | None) -> str:
    response = api.responses.create(
        model="SmolLM2-135M-Instruct", input="And then?", previous_response_id=previous, max_output_tokens=16
    )
    assert response.status in ("completed", "incomplete"), response
    assert response.previous_response_id == previous
    return response.id
