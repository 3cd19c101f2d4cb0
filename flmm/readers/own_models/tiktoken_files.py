"""Tokenizers of ``*.tiktoken`` files, as fast tokenizers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode


def build_tokenizer(path: Path, pattern: str, control: Sequence[str]) -> Tokenizer:
    """Byte-level BPE of ranked tokens behind NFC, with control tokens behind the ranks.

    A word that is a token stays whole; else the pair goes first whose merger has the lowest rank:
    all pairs that make a token are merges, in the order of their tokens.

    Args:
        path: lines of a token in base64 and its rank.
        pattern: cuts a text into words.
        control: the control tokens, in the order of their ids.
    """
    letters = bytes_to_unicode()
    vocabulary, merges = {}, []
    for line in path.read_bytes().splitlines():
        token, rank = line.split()
        text = "".join(letters[byte] for byte in base64.b64decode(token))
        vocabulary[text] = int(rank)
    for text in sorted(vocabulary, key=vocabulary.__getitem__):
        pairs = ((text[:end], text[end:]) for end in range(1, len(text)))
        merges += [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, spell])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in control])
    return tokenizer
