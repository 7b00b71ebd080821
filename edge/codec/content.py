"""Content parts: JSON <-> `content.proto`."""

from collections.abc import Iterable
from typing import Any, assert_never

import msgspec

from antiphon.errors import ApiError
from antiphon.responses.v1 import content_pb2 as pb
from antiphon.responses.v1.error_pb2 import ErrorReason
from antiphon.responses.v1.item_pb2 import Role
from edge.checks import MAX_TEXT, UINT32_MAX, check_integer, check_length
from edge.codec.enums import IMAGE_DETAIL, invalid_choice
from edge.rest import schema
from edge.rest.schema import as_object, shape, type_of

RAW_PART_TYPES = ("computer_screenshot", "input_audio")
"""Kinds that OpenAI's API has and our protos carry as JSON."""

LEAST_LOGPROB = -9999.0
"""What stands for a probability of zero, as JSON has no infinity; OpenAI's number."""


def decode_parts(values: Iterable[object], place: str, text_of: Role.ValueType | None = None) -> list[pb.ContentPart]:
    """The content parts ``values``, found at ``place``.

    Args:
        text_of: A plain string among them is a text of this role; None: it is an error.
    """
    return [
        text_part(text_of, value, f"{place}[{index}]")
        if text_of is not None and isinstance(value, str)
        else decode_part(value, f"{place}[{index}]")
        for index, value in enumerate(values)
    ]


def text_part(role: Role.ValueType, text: str, place: str) -> pb.ContentPart:
    """What ``role`` says as plain text.

    Raises:
        ApiError: it is too long; here, as a string in the place of a part has no `text` for the error to name.
    """
    check_length(text, place, MAX_TEXT)
    part = pb.ContentPart()
    if role == Role.ROLE_ASSISTANT:
        part.output_text.text = text
    else:
        part.input_text.text = text
    return part


def decode_part(value: object, place: str) -> pb.ContentPart:
    """One content part.

    Any kind is taken in any item: clients send output parts back as input, and `input_text` for the assistant.

    Raises:
        ApiError: it has the wrong shape, or its `type` is unknown (INVALID_VALUE).
    """
    fields = as_object(value, place)
    part = pb.ContentPart()  # filled in place: a constructor copies each nested message
    match kind := type_of(fields, place):
        case "input_text":
            part.input_text.text = shape(fields, schema.Text, place).text
        case "output_text":
            _fill_output_text(part.output_text, shape(fields, schema.OutputText, place), place)
        case "reasoning_text":
            part.reasoning_text.text = shape(fields, schema.Text, place).text
        case "summary_text":
            part.summary_text.text = shape(fields, schema.Text, place).text
        case "text":
            part.text.text = shape(fields, schema.Text, place).text
        case "refusal":
            part.refusal.refusal = shape(fields, schema.Refusal, place).refusal
        case "input_image" | "image_url":  # the latter as in Chat Completions
            image = shape(fields, schema.InputImage, place)
            _refuse_file_id(image.file_id, place)
            url, detail, detail_place = image.image_url, image.detail, f"{place}.detail"
            if isinstance(url, schema.ImageUrl):
                if detail is None:
                    detail, detail_place = url.detail, f"{place}.image_url.detail"
                url = url.url
            part.input_image.CopyFrom(pb.InputImage(image_url=url, detail=IMAGE_DETAIL.decode(detail, detail_place)))
        case "input_file":
            file = shape(fields, schema.InputFile, place)
            _refuse_file_id(file.file_id, place)
            part.input_file.CopyFrom(
                pb.InputFile(filename=file.filename, file_data=file.file_data, file_url=file.file_url)
            )
        case "input_video":
            return pb.ContentPart(
                input_video=pb.InputVideo(video_url=shape(fields, schema.InputVideo, place).video_url)
            )
        case _ if kind in RAW_PART_TYPES:
            part.raw.CopyFrom(pb.RawPart(type=kind, json=msgspec.json.encode(fields)))
        case _:
            raise invalid_choice(kind, _PART_TYPES, f"{place}.type")
    return part


_PART_TYPES = ("input_text", "input_image", "input_file", "input_video", "output_text", "refusal", "reasoning_text",
               "summary_text", "text")  # fmt: skip


def encode_part(part: pb.ContentPart) -> dict[str, Any]:
    """The JSON form of ``part``, with every key that the schema requires of it."""
    match part.WhichOneof("part"):
        case "input_text":
            return {"type": "input_text", "text": part.input_text.text}
        case "output_text":
            text = part.output_text
            return {
                "type": "output_text",
                "text": text.text,
                "annotations": [encode_annotation(annotation) for annotation in text.annotations],
                "logprobs": encode_logprobs(text.logprobs),
            }
        case "reasoning_text":
            return {"type": "reasoning_text", "text": part.reasoning_text.text}
        case "summary_text":
            return {"type": "summary_text", "text": part.summary_text.text}
        case "text":
            return {"type": "text", "text": part.text.text}
        case "refusal":
            return {"type": "refusal", "refusal": part.refusal.refusal}
        case "input_image":
            image = part.input_image
            return {
                "type": "input_image",
                "image_url": image.image_url if image.HasField("image_url") else None,
                "detail": IMAGE_DETAIL.encode(image.detail or pb.IMAGE_DETAIL_AUTO),
            }
        case "input_file":
            file = part.input_file
            given = {name: getattr(file, name) for name in ("filename", "file_data", "file_url") if file.HasField(name)}
            return {"type": "input_file", **given}
        case "input_video":
            return {"type": "input_video", "video_url": part.input_video.video_url}
        case "raw":
            return {**msgspec.json.decode(part.raw.json, type=dict[str, Any]), "type": part.raw.type}
        case None:
            raise AssertionError("validate refuses a part that is of no kind")
        case unreachable:
            assert_never(unreachable)


def encode_annotation(annotation: pb.Annotation) -> dict[str, Any]:
    """The JSON form of ``annotation``."""
    citation = annotation.url_citation
    return {
        "type": "url_citation",
        "start_index": citation.start_index,
        "end_index": citation.end_index,
        "url": citation.url,
        "title": citation.title,
    }


def encode_logprobs(logprobs: Iterable[pb.Logprob]) -> list[dict[str, Any]]:
    """The JSON form of ``logprobs``: an array, empty rather than null or absent, as SDKs copy it unseen."""
    return [
        {**_encode_candidate(logprob), "top_logprobs": [_encode_candidate(top) for top in logprob.top_logprobs]}
        for logprob in logprobs
    ]


def _encode_candidate(token: pb.Logprob | pb.TopLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": max(LEAST_LOGPROB, token.logprob), "bytes": list(token.utf8)}


def _fill_output_text(message: pb.OutputText, part: schema.OutputText, place: str) -> None:
    """Annotations of other kinds than `url_citation` cite what no tool of this server made, and are left out."""
    message.text = part.text
    message.annotations.extend(
        pb.Annotation(url_citation=_decode_citation(annotation, f"{place}.annotations[{index}]"))
        for index, annotation in enumerate(part.annotations or ())
        if annotation.type == "url_citation"
    )
    message.logprobs.extend(
        pb.Logprob(
            token=logprob.token,
            logprob=logprob.logprob,
            utf8=_decode_bytes(logprob, f"{place}.logprobs[{index}]"),
            top_logprobs=[
                pb.TopLogprob(
                    token=top.token,
                    logprob=top.logprob,
                    utf8=_decode_bytes(top, f"{place}.logprobs[{index}].top_logprobs[{rank}]"),
                )
                for rank, top in enumerate(logprob.top_logprobs or ())
            ],
        )
        for index, logprob in enumerate(part.logprobs or ())
    )


def _decode_citation(annotation: schema.Annotation, place: str) -> pb.UrlCitation:
    start, end = annotation.start_index or 0, annotation.end_index or 0
    check_integer(start, f"{place}.start_index", 0, UINT32_MAX)
    check_integer(end, f"{place}.end_index", 0, UINT32_MAX)
    return pb.UrlCitation(start_index=start, end_index=end, url=annotation.url or "", title=annotation.title or "")


def _decode_bytes(token: schema.Logprob | schema.TopLogprob, place: str) -> bytes:
    if token.bytes is None:  # OpenAI: "Can be null if there is no bytes representation for the token."
        return token.token.encode()
    for index, byte in enumerate(token.bytes):
        check_integer(byte, f"{place}.bytes[{index}]", 0, 255)
    return bytes(token.bytes)


def _refuse_file_id(file_id: str | None, place: str) -> None:
    if file_id is not None:
        raise ApiError(
            ErrorReason.ERROR_REASON_UNSUPPORTED_PARAMETER,
            f"Unsupported parameter: '{place}.file_id'. This server keeps no files: send the content, or its URL.",
            f"{place}.file_id",
        )
