"""What a running stack says of its fields, held to what it does with them."""

from typing import Any

import pytest

from edge.capabilities import ROWS
from tests.support.http import Client

MODEL = "SmolLM2-135M-Instruct"


async def claims_of(client: Client) -> dict[str, str]:
    """The support of every field with the served model."""
    body = (await client.call("GET", "/v1/capabilities")).body
    assert body["object"] == "capabilities"
    (model,) = body["models"]
    claims = {claim["field"]: claim["support"] for claim in body["fields"]}
    return claims | {claim["field"]: claim["support"] for claim in model["differing_fields"]}


async def sample_of(client: Client, field: str) -> dict[str, Any]:
    """A request that uses ``field``, with what it refers to in place."""
    sample = dict(next(row.sample for row in ROWS if row.field == field))
    match field:
        case "previous_response_id":
            first = await client.create(model=MODEL, input="Hi", max_output_tokens=16)
            sample["previous_response_id"] = first["id"]
        case "input: item_reference":
            first = await client.create(model=MODEL, input="Hi", max_output_tokens=16)
            sample["input"] = [{"id": first["output"][0]["id"]}, {"role": "user", "content": "x"}]
        case "input: function_call_output":
            call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
            sample["input"] = [call, *sample["input"]]
        case _:
            pass
    sample.pop("stream", None)
    return {"max_output_tokens": 16, "input": "Hi", **sample, "model": MODEL}


@pytest.mark.parametrize("field", [row.field for row in ROWS])
async def test_every_claim_is_true_of_the_default_model(model_client: Client, field: str) -> None:
    support = (await claims_of(model_client))[field]
    answer = await model_client.call("POST", "/v1/responses", json=await sample_of(model_client, field))
    if support == "refused":
        assert answer.status == 400, answer.body
        assert answer.body["error"]["code"] in {"unsupported_parameter", "unsupported_value"}
    else:
        assert answer.status == 200, answer.body
