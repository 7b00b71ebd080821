"""Stored responses for tests, made by hand."""

from antiphon.responses.v1.content_pb2 import ContentPart, InputText, OutputText
from antiphon.responses.v1.item_pb2 import Item, Message, Role
from antiphon.responses.v1.response_pb2 import Response, ResponseParams, ResponseStatus
from antiphon.store.v1.record_pb2 import ResponseRecord
from store.ids import ItemIds, ItemKind, ResponseId, new_response_id


def finished_record(
    response_id: ResponseId, *, ancestor_ids: list[str] | None = None, question: str = "Who?", answer: str = "Me."
) -> ResponseRecord:
    """A completed response: one user message in, one assistant message out."""
    ids = ItemIds(response_id)
    asked = Message(role=Role.ROLE_USER, content=[ContentPart(input_text=InputText(text=question))])
    answered = Message(role=Role.ROLE_ASSISTANT, content=[ContentPart(output_text=OutputText(text=answer))])
    ancestor_ids = ancestor_ids or []
    return ResponseRecord(
        response=Response(
            id=str(response_id),
            created_at=1_700_000_000,
            status=ResponseStatus.RESPONSE_STATUS_COMPLETED,
            params=ResponseParams(model="m", previous_response_id=ancestor_ids[-1] if ancestor_ids else None),
            output=[Item(id=ids.new(ItemKind.MESSAGE), message=answered)],
        ),
        input=[Item(id=ids.new(ItemKind.MESSAGE), message=asked)],
        ancestor_ids=ancestor_ids,
    )


def chain_of_records(depth: int) -> list[ResponseRecord]:
    """``depth`` responses that continue each other, the root first."""
    records: list[ResponseRecord] = []
    root = new_response_id()
    for turn in range(depth):
        ancestor_ids = [record.response.id for record in records]
        response_id = new_response_id(root) if turn else root
        record = finished_record(response_id, ancestor_ids=ancestor_ids, question=f"{turn}?", answer=f"{turn}!")
        record.ancestor_bytes = sum(ancestor.ByteSize() for ancestor in records)
        records.append(record)
    return records
