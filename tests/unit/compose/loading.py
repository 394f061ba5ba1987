"""Loading a project from texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from berth.compose.load.project import load
from berth.compose.load.source import LoadOptions
from berth.compose.model import Project, Service


class Files:
    """A directory with Compose files; warnings of the last load are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warnings: list[str] = []

    def write(self, name: str, text: str) -> None:
        """One file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def load(
        self,
        *texts: str,
        environ: Mapping[str, str] | None = None,
        profiles: tuple[str, ...] = (),
        services: tuple[str, ...] = (),
    ) -> Project:
        """The project of these files, in their order; without texts of compose.yaml as it lies there."""
        names = []
        for index, text in enumerate(texts):
            self.write(f"c{index}.yaml", text)
            names.append(f"c{index}.yaml")
        self.warnings = []
        options = LoadOptions(tuple(names), "demo", None, profiles, (), dict(environ or {}), str(self.folder))
        return load(options, self.warnings.append, services=services)

    def service(self, body: str, **options: Mapping[str, str]) -> Service:
        """One service named `app` with this body, in flow or block style, and an image."""
        lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
        return self.load(f"services:\n  app:\n    image: busybox\n{lines}", environ=options.get("environ")).services["app"]
