"""CogVLM's processor: the picture squashed to a square, its tokens before all text.

The token that stands for a picture is the one that the published code fills its place with; the
padding is another one here, so that padding is never taken for a picture.
Source: ``build_conversation_input_ids`` of modeling_cogvlm.py beside the published weights.
"""

from __future__ import annotations

from typing import Any

from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from flmm.readers.own_models.base import FindFile
from flmm.readers.own_models.vision_language import SquareProcessor, build_image_processor

# By template_version; "base" goes on with the text as it is. SentencePiece's tokenizers mark the
# beginning of a text as they mark a space, which here stands behind the picture's tokens.
_ANSWER = {"chat": " Answer:", "vqa": " Short answer:"}
_PICTURES = (
    "{% for part in message['content'] if part['type'] == 'image' %}PICTURE{% endfor %}"
    "{% set text = message['content'] | selectattr('type', 'equalto', 'text') "
    "| map(attribute='text') | join %}"
)
_CONVERSATION = (
    "{% for message in messages %}"
    + _PICTURES
    + "{% if message['role'] == 'user' %}Question: {{ text }}ANSWER"
    "{% else %} {{ text }}\n{% endif %}{% endfor %}"
)
_SINGLE = "{% for message in messages %}" + _PICTURES + "{{ text }}{% endfor %}"


def build_template(version: str, image_token: str, is_sentencepiece: bool) -> str:
    """The chat template of a ``template_version``.

    Raises:
        ValueError: it is not known.
    """
    if version not in (*_ANSWER, "base"):
        known = ", ".join(map(repr, (*_ANSWER, "base")))
        raise ValueError(f"template_version {version!r} is not known: give one of {known}")
    template = _SINGLE if version == "base" else _CONVERSATION
    picture = image_token + " " * is_sentencepiece
    return template.replace("ANSWER", _ANSWER.get(version, "")).replace("PICTURE", picture)


def make_processor(
    tokenizer: Any, image_token: str, vision_config: Any, template_version: str
) -> SquareProcessor:
    """A processor for models of this vision tower."""
    is_sentencepiece = tokenizer.tokenize("a")[0].startswith("▁")
    return SquareProcessor(
        build_image_processor(vision_config.image_size),
        tokenizer,
        chat_template=build_template(template_version, image_token, is_sentencepiece),
        image_seq_length=vision_config.num_tokens,
        image_token=image_token,
    )


def load_tokenizer(text_config: Any, find_file: FindFile) -> Any:
    """The tokenizer beside a published config.

    Raises:
        OSError: there is none.
    """
    file = find_file("tokenizer.json")
    if file is not None:
        tokenizer: Any = PreTrainedTokenizerFast(tokenizer_file=str(file))
    elif (file := find_file("tokenizer.model")) is not None:
        tokenizer = LlamaTokenizer.from_pretrained(file.parent, trust_remote_code=False)
    else:
        raise OSError(
            "there is no tokenizer beside the config: CogVLM takes that of lmsys/vicuna-7b-v1.5, "
            "whose tokenizer.json or tokenizer.model belongs into the folder"
        )
    ids = [text_config.bos_token_id, text_config.eos_token_id]
    begin, end = tokenizer.convert_ids_to_tokens(ids)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = begin, end, end
    return tokenizer
