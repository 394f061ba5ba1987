"""Compose: load a project, observe what exists, plan the difference, execute the plan. See docs/dev/compose.md."""
