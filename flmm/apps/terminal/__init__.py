"""What ``tools/chat.py`` does: a conversation in a terminal or through a pipe."""

from flmm.apps.terminal.session import COMMANDS, ChatSettings, TerminalChat
from flmm.apps.terminal.terminal import Terminal, open_terminal

__all__ = ["COMMANDS", "ChatSettings", "Terminal", "TerminalChat", "open_terminal"]
