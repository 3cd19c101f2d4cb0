"""What chosen layers of a decoder give in one pass, which ends with the last of them.

A layer's output does not depend on the layers behind it: where nobody asks for these, they, the
final norm and all that follows are not run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from flmm.readers.guard import ModelGuard


class _EnoughError(Exception):
    """The last layer that is asked for has run."""


@contextmanager
def record_outputs(
    layers: Sequence[nn.Module], guard: ModelGuard, ends_pass: bool
) -> Iterator[list[Tensor]]:
    """The outputs ``[B, R, D]`` of layers in the next pass, which they may end.

    The block holds that pass and, with ``ends_pass``, is left where the last layer is done. A pass
    that another conversation slips into the middle of it is let alone.
    """
    outputs: list[Tensor] = []
    is_open = True
    with guard.lock, ExitStack() as hooks:
        depth = guard.depth + 1

        def record(_: nn.Module, __: Any, output: Any) -> None:
            if is_open and guard.depth == depth:
                outputs.append(output[0] if isinstance(output, tuple) else output)
                if ends_pass and len(outputs) == len(layers):
                    raise _EnoughError

        try:
            for layer in layers:
                hooks.callback(layer.register_forward_hook(record).remove)
            yield outputs
        except _EnoughError:
            pass
        finally:
            is_open = False  # for a hook that Ctrl-C left behind
