"""What the README tells people to type, so that tests run exactly that."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def blocks(section: str) -> list[str]:
    """Return the code blocks of a section, in their order."""
    (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", README.read_text(), re.M | re.S)
    return [block for _, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)]


def command(block: str, beginning: str) -> list[str]:
    """Return the words of a block's one line that begins so."""
    (line,) = [line for line in block.splitlines() if line.startswith(beginning)]
    return line.split()
