# How `make docs` makes HTML of these pages, by Sphinx and MyST (Debian: python3-sphinx,
# python3-myst-parser, furo). The pages are Markdown as hosting sites show it, and know nothing of
# Sphinx: what it needs of a table of contents is taken from their links.
import os
import re

from pygments.lexers.special import TextLexer
from pygments.lexers.shell import BashSessionLexer

project = "minikvm"
version = re.search(r'MINIKVM_VERSION "(.*)"', open("../include/minikvm.h").read()).group(1)
html_title = f"minikvm {version}"
html_theme = "furo"
html_show_copyright = False
html_copy_source = False

extensions = ["myst_parser"]
myst_heading_anchors = 4  # as on hosting sites: lua-api.md#vmloadsource-options
root_doc = "docs/README"
include_patterns = [
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/**.md",
    "os-1k/README.md", "guests/kernel64/README.md", "riscv/README.md",
]


def contents(app, name, source):
    """Adds a table of contents, which is not shown, to the pages that list others."""
    if name not in (root_doc, "docs/book/README"):
        return
    folder = os.path.dirname(name)
    pages = re.findall(r"\]\(([\w./-]+)\.md\)", source[0])
    if name == root_doc:
        pages.insert(0, "../README")
    entries = []
    for page in pages:
        target = os.path.normpath(os.path.join(folder, page))
        if (name == root_doc or target.startswith("docs/book/")) and "/" + target not in entries:
            entries.append("/" + target)
    source[0] += "\n```{toctree}\n:hidden:\n:maxdepth: 1\n\n" + "\n".join(entries) + "\n```\n"


def front(app, problem):
    """The page that a browser shows for the folder."""
    if not problem and app.builder.format == "html":
        with open(os.path.join(app.outdir, "index.html"), "w") as page:
            page.write(f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n')


def setup(app):
    app.connect("build-finished", front)
    app.connect("source-read", contents)
    for word in ("prompt", "ld", "mk", "asm"):  # kinds of listings that Pygments does not know
        app.add_lexer(word, BashSessionLexer if word == "prompt" else TextLexer)
