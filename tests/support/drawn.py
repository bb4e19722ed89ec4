"""The texts and colours of an SVG that we have made, and whether each text is inside the picture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

_SVG: Final = "{http://www.w3.org/2000/svg}"
_LETTER: Final = 0.55
"""The mean width of a letter, divided by its height."""


def texts(path: Path) -> list[str]:
    """All texts of the picture, in the order of the file."""
    return ["".join(element.itertext()) for element in _texts(path)]


def outside(path: Path) -> list[str]:
    """The texts that begin or end outside the picture."""
    found = []
    width = float(_root(path).attrib["viewBox"].split()[2])
    for element in _texts(path):
        style, words = element.attrib["style"], "".join(element.itertext())
        size, anchor = re.search(r"([\d.]+)px", style), re.search(r"text-anchor: (\w+)", style)
        assert size, style
        long = len(words) * float(size[1]) * _LETTER
        left = float(element.attrib["x"]) - {"end": long, "middle": long / 2}.get(
            anchor[1] if anchor else "", 0
        )
        if left < 0 or left + long > width:
            found.append(words)
    return found


def fills(path: Path) -> list[str]:
    """The colours of all filled shapes, in the order of the file."""
    return re.findall(r'style="fill: (#\w+)"', path.read_text())


def _root(path: Path) -> ET.Element:
    return ET.parse(path).getroot()  # noqa: S314 - our own


def _texts(path: Path) -> list[ET.Element]:
    return list(_root(path).iter(f"{_SVG}text"))
