"""Makes the package's long description and links from README.md and the project's address, when it is built.

On a package index README stands alone: links to files beside it lead nowhere and its pictures are not there.
With an address (`[tool.hatch.metadata.hooks.custom]` in pyproject.toml) they lead to the repository; while
that is empty a link becomes its text and a picture goes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

BRANCH = "main"
_PICTURE = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)\n*")
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:|#")


class CustomMetadataHook(MetadataHookInterface):
    """Sets `readme` and `urls`, which pyproject.toml leaves open."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the long description and, where there is an address, the links."""
        address = str(self.config.get("address", "")).rstrip("/")
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": long_description(readme, address)}
        metadata["urls"] = (
            {
                "Homepage": address,
                "Issues": f"{address}/issues",
                "Changelog": f"{address}/blob/{BRANCH}/CHANGELOG.md",
            }
            if address
            else {}
        )


def long_description(readme: str, address: str) -> str:
    """Return README with relative links and pictures made absolute, or left out while there is no address.

    Args:
        readme: Markdown.
        address: of the repository, without a slash at its end; may be empty.
    """

    def picture(found: re.Match[str]) -> str:
        if _ABSOLUTE.match(found["target"]):
            return found[0]
        return f"![{found['text']}]({address}/raw/{BRANCH}/{found['target']})\n\n" if address else ""

    def link(found: re.Match[str]) -> str:
        if _ABSOLUTE.match(found["target"]):
            return found[0]
        return f"[{found['text']}]({address}/blob/{BRANCH}/{found['target']})" if address else found["text"]

    return _LINK.sub(link, _PICTURE.sub(picture, readme))
