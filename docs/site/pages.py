"""MkDocs hook: the pages of the site that have no file in docs/, and links that hold on GitHub and on the site.

Documents of the repository's root appear as they are. The notebook, each upsampler and the docstrings of the public
modules get pages, see contents.py.
"""

import re
from pathlib import Path

from contents import DOCUMENTS, PICTURES, REFERENCE, ROOT, TEXTS, notebook_page, page_of, reference_page, upsampler_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from upsamplers import NAMES


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages that are made here in the navigation."""
    for tab in config.nav or []:
        if "Reference" in tab:
            tab["Reference"] = [{title: f"reference/{title.lower()}.md"} for title in REFERENCE]
        for entry in tab.get("Upsamplers", []):
            if "One by one" in entry:
                entry["One by one"] = [{name: page_of(name)} for name in NAMES]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here, and the pictures that lie outside docs/."""
    pages = {page: (ROOT / name).read_text() for name, page in DOCUMENTS.items()}
    for name, (page, language) in TEXTS.items():
        pages[page] = f"# {Path(page).stem.title()}\n\n```{language}\n{(ROOT / name).read_text().strip()}\n```\n"
    for title, names in REFERENCE.items():
        pages[f"reference/{title.lower()}.md"] = reference_page(title, names)
    pages |= {page_of(name): upsampler_page(name) for name in NAMES}
    pages["first_steps.md"] = notebook_page(ROOT / "docs/first_steps.ipynb")
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    for path in (path for pattern in PICTURES for path in ROOT.glob(pattern)):
        files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    if "/" in page.file.src_uri:  # made here, with the links of the site
        return markdown
    markdown = re.sub(r"\]\((?:docs/|\.\./(?=[A-Z]|benchmarks/|results/))", "](", markdown)
    targets = {
        **DOCUMENTS,
        **{name: target for name, (target, _) in TEXTS.items()},
        "first_steps.ipynb": "first_steps.md",
    }
    for name, target in targets.items():
        markdown = re.sub(rf"\]\({re.escape(name)}(?=[)#])", f"]({target}", markdown)
    if page.file.src_uri == "upsamplers.md":  # its table leads to the pages
        for name in NAMES:
            markdown = markdown.replace(f"\n| `{name}` |", f"\n| [`{name}`]({page_of(name)}) |", 1)
    return markdown
