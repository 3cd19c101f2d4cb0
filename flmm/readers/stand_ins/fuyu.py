"""Fuyu around a small tokenizer of its real kind, whose marks are pieces like any word."""

from __future__ import annotations

import copy
import string
from collections.abc import Mapping
from typing import Any, ClassVar

from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import FuyuImageProcessor, FuyuProcessor, PreTrainedTokenizerFast

from flmm.readers.stand_ins.base import SMALL_TEXT, StandIn

_END = "|ENDOFTEXT|"


class FuyuStandIn(StandIn):
    """Pictures up to 36 x 64 patches, or 18 x 32 where it is shrunk."""

    small_text: ClassVar[Mapping[str, Any]] = {
        name: value
        for name, value in SMALL_TEXT.items()
        if name not in ("head_dim", "num_key_value_heads")
    }

    def shrink(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Also small patches."""
        small = copy.deepcopy(dict(values)) | {"patch_size": 10, "image_size": 50}
        small["text_config"] |= self.small_text
        return small

    def make_processor(self, values: Mapping[str, Any]) -> Any:
        """Without a chat template, as published; an ``image_size`` of 300 means 1080 x 1920 px."""
        side, patch = values["image_size"], values["patch_size"]
        pictures = FuyuImageProcessor(
            size={"height": side * 18 // 5, "width": side * 32 // 5},
            patch_size={"height": patch, "width": patch},
        )
        return FuyuProcessor(pictures, build_piece_tokenizer())


def build_piece_tokenizer() -> Any:
    """A fast tokenizer as SentencePiece's unigram models are: characters, bytes for others."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["|SPEAKER|", "|NEWLINE|", _END]
    letters = ["▁", *string.ascii_letters, *string.digits, *string.punctuation]
    vocabulary = [(piece, 0.0) for piece in pieces] + [(letter, -1.0) for letter in letters]
    inner = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token=_END, eos_token=_END
    )
