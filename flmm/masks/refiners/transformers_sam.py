"""What the SAMs of transformers have in common; transformers is imported when one is built."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from importlib import metadata
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from flmm.masks.refiners.base import Refiner
from flmm.weights import find_not_finite


class TransformersRefiner(Refiner):
    """A SAM of transformers, see :class:`Refiner`.

    Args:
        name_or_path: folder or hub id of the weights (safetensors; no code of theirs is run).
        revision: branch, tag or commit of a hub id; then a commit, where the hub has said so.
        random_init: settings of the model's config; the weights are random ones of that
            architecture, for tests and rehearsals.

    Raises:
        FileNotFoundError: the weights are not there.
        ValueError: neither or both of ``name_or_path`` and ``random_init``, no prompt at all, or
            weights of another model.
    """

    example: ClassVar[str]

    def __init__(
        self,
        name_or_path: str | None = None,
        revision: str | None = None,
        random_init: Mapping[str, Any] | None = None,
        use_mask: bool = True,
        use_box: bool = True,
        use_text: bool = True,
        multimask_output: bool = False,
    ) -> None:
        kind = self._import_model()
        if (name_or_path is None) == (random_init is None):
            raise ValueError(
                f"{type(self).__name__} needs name_or_path (a folder, or a hub id such as "
                f"{self.example!r}), or else random_init (settings of {kind.__name__}'s config)"
            )
        if name_or_path is not None:
            sam = _load(kind, str(name_or_path), revision, self.example)
        else:
            sam = kind(kind.config_class(**(random_init or {})))
        side = sam.prompt_encoder.input_image_size
        super().__init__(sam, side, use_mask, use_box, use_text, multimask_output)
        self.revision = revision or getattr(sam.config, "_commit_hash", None)
        self.image_processor = self._build_processor()

    @abstractmethod
    def _import_model(self) -> Any:
        """The model's class."""

    @abstractmethod
    def _build_processor(self) -> Any:
        """The model's own image processor, for frames of ``side``."""

    def describe(self) -> dict[str, Any]:
        """As every refiner's; the image processor and its library's version count too."""
        processor = self.image_processor.to_dict()
        version = metadata.version("transformers")
        return {**super().describe(), "image_processor": processor, "transformers": version}

    def _build_frame(self, picture: Image.Image) -> Tensor:
        return self.image_processor(picture, return_tensors="pt")["pixel_values"][0]

    def _embed_prompts(
        self, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        sparse, dense = self.sam.prompt_encoder(
            input_points=None,
            input_labels=None,
            input_boxes=None if boxes is None else boxes[:, None],
            input_masks=masks,
        )
        return None if sparse is None else sparse[:, 0], dense

    def _decode_prompts(
        self, embedding: Tensor, sparse: Tensor, dense: Tensor, **settings: Any
    ) -> Tensor:
        """Every phrase as a picture of its own: a mask prompt belongs to a picture there."""
        with torch.autocast(self.device.type, enabled=False):
            position = self.sam.get_image_wide_positional_embeddings().to(self.dtype)
        outputs = self.sam.mask_decoder(
            image_embeddings=embedding.expand(len(sparse), -1, -1, -1),
            image_positional_embeddings=position,
            sparse_prompt_embeddings=sparse[:, None],
            dense_prompt_embeddings=dense,
            **settings,
        )
        return outputs[0][:, 0]

    def _list_unreached(self) -> list[nn.Module]:
        encoder, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        networks = decoder.output_hypernetworks_mlps
        return [
            decoder.iou_prediction_head,
            encoder.no_mask_embed if self.use_mask else encoder.mask_embed,
            *(networks[:1] if self.multimask_output else networks[1:]),
        ]


def _load(kind: Any, name: str, revision: str | None, example: str) -> Any:
    """A model with weights, all of them found and finite."""
    try:
        sam, report = kind.from_pretrained(
            name,
            revision=revision,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except OSError as error:
        raise FileNotFoundError(
            f"refiner {name} cannot be loaded ({str(error).splitlines()[0]}): give a folder with "
            f"config.json and model.safetensors, or a hub id such as {example!r}"
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"refiner {name} holds weights of other shapes than its config.json says: download "
            "it again"
        ) from error
    missing, damaged = sorted(report["missing_keys"]), find_not_finite(sam.state_dict())
    if missing or damaged is not None:
        fault = f"{damaged} holds NaN or infinite values"
        if missing:
            fault = f"{len(missing)} weights are missing, for example {missing[0]}"
        raise ValueError(f"refiner {name} is no whole {kind.__name__}: {fault}")
    return sam
