"""What chosen layers of a decoder give in one pass, which ends with the last of them.

A layer's output does not depend on the layers behind it: where nobody asks for these, they, the
final norm and all that follows are not run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from flmm.readers.guard import ModelGuard


class _EnoughError(Exception):
    """The last layer that is asked for has run."""


def run_layers(
    call: Callable[..., Any],
    layers: Sequence[nn.Module],
    guard: ModelGuard,
    ends_pass: bool,
    **inputs: Any,
) -> list[Tensor]:
    """The outputs ``[B, R, D]`` of layers, of the decoder's very last one after the final norm.

    Called by ``guard.run``. With ``ends_pass`` nothing behind these layers is run. A pass that
    another conversation slips into the middle of this one is let alone.
    """
    outputs: list[Tensor] = []
    is_open, depth = True, guard.depth

    def record(_: nn.Module, __: Any, output: Any) -> None:
        if is_open and guard.depth == depth:
            outputs.append(output[0] if isinstance(output, tuple) else output)
            if ends_pass and len(outputs) == len(layers):
                raise _EnoughError

    with ExitStack() as hooks:
        try:
            for layer in layers:
                hooks.callback(layer.register_forward_hook(record).remove)
            outputs[-1] = call(**inputs).last_hidden_state
        except _EnoughError:
            pass
        finally:
            is_open = False  # for a hook that Ctrl-C left behind
    return outputs
