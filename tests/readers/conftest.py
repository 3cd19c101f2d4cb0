"""One small reader for each family, and the same weights behind transformers' eager attention."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flmm.readers import FrozenQwen, FrozenVLM
from flmm.readers.families import Family, find_family
from tests.small_models import ALL_FAMILIES, FAMILY_FOLDERS, build_small_model, load_processor

FEW = ("qwen2_5_vl", "llava_next")  # for what no family differs in


@dataclass
class EagerReference:
    """Transformers' own model with eager attention, fed by the model's own unified processor."""

    model: Any = field(repr=False)
    processor: Any = field(repr=False)

    @property
    def family(self) -> Family:
        """What the model's family says of itself."""
        return find_family(self.model.config)(self.model.config, self.processor)

    def prepare(self, messages: list[Any], images: list[Any], added: str = "") -> dict[str, Any]:
        """What the processor makes of a conversation that goes on with a text.

        Every answer stands behind the template's generation prompt, as it was written: some
        templates (LLaVA-OneVision's) write another one when they look back.
        """
        if self.processor.chat_template is None:  # what closes the prompt is the processor's
            (question,) = (item["text"] for item in messages[0]["content"] if "text" in item)
            text = self.family.write_for_processor(question)
            ids = self.processor.tokenizer.encode(added, add_special_tokens=False)
            return self.go_on(self._process(text, images), ids)
        text = self._render(messages[:1])
        for place in range(2, len(messages), 2):
            answer = messages[place - 1]["content"][0]["text"]
            behind = self._render(messages[: place + 1]).rpartition(answer)[2]
            text += self._space(messages[: place - 1], answer) + answer + behind
        text += self._space(messages, added) + added
        return self._process(text, images)

    def _render(self, messages: list[Any], **options: Any) -> str:
        """By the chat template; some take an answer as a string alone."""
        options = {"add_generation_prompt": True, "tokenize": False, **options}
        text = self.processor.apply_chat_template(messages, **options)
        if "[{'type'" not in text:
            return text
        plain = [
            {**turn, "content": turn["content"][0]["text"]} if turn["role"] == "assistant" else turn
            for turn in messages
        ]
        return self.processor.apply_chat_template(plain, **options)

    def _space(self, messages: list[Any], answer: str) -> str:
        """A space, where a template writes one before an answer.

        So does one of SentencePiece's, behind which a word begins with a space.
        """
        if not answer or answer[0].isspace():
            return ""
        said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        whole = self._render([*messages, said], add_generation_prompt=False)
        spaced = whole.startswith(f"{self._render(messages)} {answer}")
        begins = self.processor.tokenizer.tokenize("a")[0].startswith("▁")
        return " " if spaced or begins else ""

    def _process(self, text: str, images: list[Any]) -> dict[str, Any]:
        asked = {"text": [text], "images": images, "return_tensors": "pt"}
        made = self.processor(**asked)
        if "pixel_values" not in made:
            made = self.processor(**asked, **self.family.image_options)
        return {name: value for name, value in made.items() if name != "labels"}

    def go_on(self, inputs: dict[str, Any], ids: list[int]) -> dict[str, Any]:
        """The same with text tokens behind it."""
        what = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        types = [self.family.suffix_type] * len(ids)
        what |= dict.fromkeys(("token_type_ids", "mm_token_type_ids"), types)
        longer = {
            name: torch.cat([inputs[name], torch.tensor([what[name]], dtype=torch.int64)], dim=1)
            for name in what
            if name in inputs
        }
        return inputs | longer

    def hold(self, ids: list[int], images: list[Any]) -> dict[str, Any]:
        """Token ids that hold all pictures, with what the processor makes of these."""
        inputs = self._process(self.processor.image_token * len(images), images)
        inputs["input_ids"] = torch.tensor([ids])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        for name in {"token_type_ids", "mm_token_type_ids"} & set(inputs):
            inputs[name] = (inputs["input_ids"] == self.model.config.image_token_id).int()
        return inputs

    @torch.no_grad()
    def see(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids ``[T]``, attentions ``[L*A, T, T]`` and hidden states ``[L, T, D]``."""
        dtype = self.model.dtype  # not every vision tower casts its pictures
        inputs = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        output = self.model.model(
            **inputs, output_attentions=True, output_hidden_states=True, use_cache=False
        )
        text = self.model.config.get_text_config()
        kinds = getattr(text, "layer_types", None) or ["full"] * text.num_hidden_layers
        layers = [index for index, kind in enumerate(kinds) if kind != "linear_attention"]
        assert len(output.attentions) == len(layers)
        outputs = output.hidden_states[-text.num_hidden_layers :]
        hidden_states = torch.cat([outputs[index] for index in layers])
        return inputs["input_ids"][0], torch.cat(output.attentions, 1)[0], hidden_states

    def read(self, image: Any, prompt: str, answer: str) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`see`, of one picture, a prompt and what is said behind it."""
        return self.see(self.prepare([ask(prompt)], [image], answer))

    @torch.no_grad()
    def generate(self, inputs: dict[str, Any], count: int) -> list[int]:
        """Transformers' greedy answer, with the token that ends it."""
        output = self.model.generate(
            **inputs,
            max_new_tokens=count,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
        )
        return output[0, inputs["input_ids"].shape[1] :].tolist()


def ask(question: str, images: int = 1) -> dict[str, Any]:
    """A user's message."""
    content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    return {"role": "user", "content": content}


def find_vision_tower(vlm: Any) -> Any:
    """The module that sees pictures."""
    inner = vlm.model.model
    return inner.visual if hasattr(inner, "visual") else inner.vision_tower


def mark_heavy(value: str, is_heavy: bool) -> Any:
    """A parameter, of its own name."""
    return pytest.param(value, id=value, marks=[pytest.mark.heavy] * is_heavy)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests run for every family, or for those that their module names in ``FAMILIES``.

    Where it names some in ``LIGHT``, the others are heavy.
    """
    if "family" in metafunc.fixturenames:
        families = getattr(metafunc.module, "FAMILIES", ALL_FAMILIES)
        light = getattr(metafunc.module, "LIGHT", families)
        chosen = [mark_heavy(name, name not in light) for name in families]
        metafunc.parametrize("family", chosen, indirect=True, scope="session")


@pytest.fixture(scope="session")
def family(request: pytest.FixtureRequest) -> str:
    """A name of ``small_models.ALL_FAMILIES``."""
    return request.param


@pytest.fixture(scope="session")
def vlm(data_dir: Path, family: str) -> FrozenVLM:
    processor = load_processor(data_dir, family)
    kind = FrozenQwen if family in FAMILY_FOLDERS else FrozenVLM
    return kind.from_model(build_small_model(data_dir, family), processor)


@pytest.fixture(scope="session")
def eager(data_dir: Path, family: str) -> EagerReference:
    model = build_small_model(data_dir, family)
    model.set_attn_implementation("eager")
    return EagerReference(model, load_processor(data_dir, family))


@pytest.fixture(scope="session")
def noise() -> Any:
    """Factory of pictures of a given (h, w), always the same ones."""

    def build(height: int, width: int) -> np.ndarray:
        return np.random.default_rng(height * 1000 + width).integers(
            0, 255, (height, width, 3), dtype=np.uint8
        )

    return build
