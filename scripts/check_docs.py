"""Every relative link in the Markdown files leads to a file, and every package has its page in docs/dev."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"```.*?```", re.DOTALL)
# Pages by package; a package without one of its own is described on the page named here.
PAGES = {"contract": "architecture", "kernel": "kernel", "model": "architecture", "registry": "images",
         "runtime": "runtime-launch", "wire": "architecture"}  # fmt: skip


def main() -> int:
    """The number of faults, which are printed."""
    faults = []
    skipped = {".venv", "node_modules", ".git"}
    for page in ROOT.rglob("*.md"):
        if skipped & set(page.relative_to(ROOT).parts):
            continue
        for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
            if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
                faults.append(f"{page.relative_to(ROOT)}: {target} does not exist")
    for package in sorted((ROOT / "src/berth").iterdir()):
        if package.is_dir() and (package / "__init__.py").exists():
            page_name = PAGES.get(package.name, package.name)
            if not (ROOT / f"docs/dev/{page_name}.md").exists():
                faults.append(f"src/berth/{package.name}: docs/dev/{page_name}.md does not exist")
    print("\n".join(faults) or "docs: all links lead somewhere")
    return len(faults)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
