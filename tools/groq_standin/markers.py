"""Parser of the markers in a message: `[[standin:NAME key=value]]`, where the name is a mode of `modes.py`."""

from dataclasses import replace

from tools.groq_standin.mode import MARKER, MarkerError
from tools.groq_standin.modes import MODES
from tools.groq_standin.script import Script


def parse(text: str) -> Script:
    """Return the script of the markers in `text`.

    Raises:
        MarkerError: A marker is unknown or malformed. It is not ignored, because a test with a typo could pass.
    """
    script = Script()
    if "[[standin:" not in text:
        return script
    found = MARKER.findall(text)
    if len(found) != text.count("[[standin:"):
        raise MarkerError("malformed stand-in marker; write [[standin:NAME key=value]], see GET /modes")
    for name, parameters in found:
        script = _applied(script, name, parameters)
    return script


def named(name: str) -> Script:
    """Return the script of one mode with default parameters.

    Raises:
        MarkerError: The mode is unknown.
    """
    return _applied(Script(), name, "")


def _applied(script: Script, name: str, parameters: str) -> Script:
    mode = MODES.get(name)
    if mode is None:
        raise MarkerError(f"unknown stand-in mode '{name}', see GET /modes")
    given = dict(pair.split("=", 1) for pair in parameters.split())
    return replace(mode.applied(script, given), names=(*script.names, name))
