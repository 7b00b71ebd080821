"""Chat templates of the kinds that models have, each with the markers of its vocabulary."""

from dataclasses import dataclass
from pathlib import Path

from tests.support.tokenizer import ByteTokenizer

_FOLDER = Path(__file__).parent.parent / "templates"
_CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_QWEN = (*_CHATML, "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_LLAMA3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_MISTRAL = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]")
_DEEPSEEK = (
    *("User", "Assistant", "tool▁calls▁begin", "tool▁calls▁end", "tool▁call▁begin", "tool▁call▁end", "tool▁sep"),
    *("tool▁outputs▁begin", "tool▁outputs▁end", "tool▁output▁begin", "tool▁output▁end"),
)
_DEEPSEEK_MARKERS = (*(f"<｜{name}｜>" for name in _DEEPSEEK), "<think>", "</think>")
_DEEPSEEK_ENDS = ("<｜end▁of▁sentence｜>",), "<｜begin▁of▁sentence｜>"
_GPT_OSS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>", "<|return|>")
_COMMAND = ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>")


@dataclass(frozen=True)
class TemplateCase:
    """One template with the vocabulary that it is written for."""

    name: str
    markers: tuple[str, ...]
    eos: tuple[str, ...]
    bos: str | None = None

    @property
    def source(self) -> str:
        return (_FOLDER / f"{self.name}.jinja").read_text()

    def tokenizer(self) -> ByteTokenizer:
        return ByteTokenizer(self.markers, bos=self.bos, eos=self.eos)


CASES = (
    TemplateCase("chatml", _CHATML, ("<|im_end|>",)),
    TemplateCase("command_r", _COMMAND, ("<|END_OF_TURN_TOKEN|>",), "<BOS_TOKEN>"),
    TemplateCase("deepseek_r1", _DEEPSEEK_MARKERS, *_DEEPSEEK_ENDS),
    TemplateCase("deepseek_v3", _DEEPSEEK_MARKERS, *_DEEPSEEK_ENDS),
    TemplateCase("deepseek_v31", _DEEPSEEK_MARKERS, *_DEEPSEEK_ENDS),
    TemplateCase("gemma", ("<start_of_turn>", "\n\n"), ("<eos>", "<end_of_turn>"), "<bos>"),
    TemplateCase("gpt_oss", _GPT_OSS, ("<|return|>", "<|call|>")),
    TemplateCase("llama2", (), ("</s>",), "<s>"),
    TemplateCase("llama3", _LLAMA3, ("<|end_of_text|>", "<|eot_id|>"), "<|begin_of_text|>"),
    TemplateCase("llama31", (*_LLAMA3, "<|python_tag|>"), ("<|end_of_text|>", "<|eot_id|>"), "<|begin_of_text|>"),
    TemplateCase("llama32_pythonic", (*_LLAMA3, "<|python_tag|>"), ("<|eot_id|>",), "<|begin_of_text|>"),
    TemplateCase("mistral_v1", ("[INST]", "[/INST]"), ("</s>",), "<s>"),
    TemplateCase("mistral_v3", (*_MISTRAL, "[/TOOL_RESULTS]"), ("</s>",), "<s>"),
    TemplateCase("mistral_v13", (*_MISTRAL, "[ARGS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), ("</s>",), "<s>"),
    TemplateCase("phi3", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), ("<|endoftext|>", "<|end|>"), "<s>"),
    TemplateCase("qwen25", _QWEN, ("<|im_end|>", "<|endoftext|>")),
    TemplateCase("qwen3", _QWEN, ("<|im_end|>", "<|endoftext|>")),
    TemplateCase("qwen3_coder", _QWEN, ("<|im_end|>", "<|endoftext|>")),
    TemplateCase("smollm2", _CHATML, ("<|im_end|>",)),
    TemplateCase("smollm3", _QWEN, ("<|im_end|>",)),
    TemplateCase("zephyr", ("<unk>",), ("</s>",), "<s>"),
)
