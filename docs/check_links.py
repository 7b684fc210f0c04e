"""Check that every relative link in the Markdown pages leads to a file, and to a heading where it names one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.MULTILINE)


def pages() -> list[Path]:
    """Return the pages of the project: those at the top and those below docs/."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def anchors(page: Path) -> set[str]:
    """Return the names by which a page's headings are linked to, as GitHub makes them."""
    headings = HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> list[str]:
    """Return one line for each link of the page that leads nowhere."""
    problems = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue  # another site: nothing here asks the network
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            problems.append(f"{page.relative_to(ROOT)}: no such file: {target}")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            problems.append(f"{page.relative_to(ROOT)}: no such heading: {target}")
    return problems


def main() -> int:
    """Print every broken link; return the exit status."""
    found = pages()
    problems = [problem for page in found for problem in broken_links(page)]
    sys.stdout.write(
        "".join(f"{problem}\n" for problem in problems) or f"{len(found)} pages, every link leads somewhere\n"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
