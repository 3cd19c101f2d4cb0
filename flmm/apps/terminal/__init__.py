"""What ``tools/chat.py`` does: a conversation in a terminal or through a pipe.

In: an inferencer and lines that a person types. Out: answers as they are written, tables, pictures
of the masks, JSON. The conversation itself is ``flmm.conversation``'s.
"""

from flmm.apps.terminal.session import COMMANDS, ChatSettings, TerminalChat
from flmm.apps.terminal.terminal import Terminal, open_terminal

__all__ = ["COMMANDS", "ChatSettings", "Terminal", "TerminalChat", "open_terminal"]
