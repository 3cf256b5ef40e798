"""The measured programs, one module each; all of them pass the same requests to the same mock of Groq."""

from bench.contenders.contender import Contender

__all__ = ["Contender"]
