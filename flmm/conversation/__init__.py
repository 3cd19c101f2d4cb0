"""A conversation whose words point at pixels."""

from flmm.conversation.chat import BRACKETS, Chat
from flmm.conversation.turns import ChatTurn, PointedPhrase, TurnToken, find_places

__all__ = ["BRACKETS", "Chat", "ChatTurn", "PointedPhrase", "TurnToken", "find_places"]
