"""A hook of MkDocs: what stands elsewhere in the repository is shown on the site, and links lead there.

`benchmarks/RESULTS.md`, `studies/` and the changelog stay where they are. On the site they have the same path
below its root, so links between them hold. Links between them and the pages of `docs/` are written as they
are in the repository, where they can be followed as well, and are rewritten here.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import join, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SHOWN = ("CHANGELOG.md", "benchmarks/RESULTS.md", "benchmarks/search/tables/README.md", "studies/**/*")
SUFFIXES = (".json", ".md", ".svg", ".toml")
# A link or picture of Markdown with its target, which is no address and no place in the same page.
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(?=[)\s#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from elsewhere in the repository."""
    for path in sorted({path for pattern in SHOWN for path in ROOT.glob(pattern)}):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in SUFFIXES and not name.startswith("studies/data/"):
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links that leave `docs/`, or lead into it from outside."""
    name = page.file.src_uri
    place = name if page.file.generated_by else f"docs/{name}"

    def rewritten(link: re.Match[str]) -> str:
        target = normpath(join(place, "..", link[1]))
        uri = target.removeprefix("docs/")
        return relpath(uri, join(name, "..")) if files.get_file_from_path(uri) else link[1]

    return LINK.sub(rewritten, markdown)
