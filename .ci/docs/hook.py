"""What mkdocs does not do by itself: pages that come and go in the navigation, links
from docs/ to the rest of the repository, llms.txt, and a look at what the pages load."""

import logging
import pathlib
import re
import urllib.parse

log = logging.getLogger("mkdocs.hooks.taskwire")  # a warning ends a strict build
ROOT = pathlib.Path(__file__).resolve().parents[2]
LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s#]*)(#[^)\s]*)?(\))")


def on_config(config):
    """Fills the sections that are empty in mkdocs.yml from their folders, and leaves out what is not there."""
    docs = pathlib.Path(config.docs_dir)
    for section in config.nav:
        for title, folder in (("Runbooks", "runbooks"), ("Decisions", "adr")):
            if title in section:
                section[title] = sorted(
                    (str(p.relative_to(docs)) for p in (docs / folder).glob("*.md")),
                    key=lambda name: (not name.endswith(("index.md", "README.md")), name),
                )
    known = str(config.nav)
    if more := sorted(p.name for p in docs.glob("*.md") if f"'{p.name}'" not in known):
        config.nav.append({"More": more})
    config.nav = [section for section in config.nav if all(section.values())]
    return config


def slug(heading):
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", lambda m: m.group(1) or "", heading)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def anchors(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    return {slug(h) for h in re.findall(r"^#+ (.*)$", text, flags=re.M)}


def on_page_markdown(markdown, page, config, files):
    """A link that leaves docs/ leads to the repository, where its file and heading must be."""
    here = pathlib.Path(config.docs_dir, page.file.src_uri).parent

    def outside(match):
        target = (here / urllib.parse.unquote(match[2])).resolve()
        if target.is_relative_to(config.docs_dir):
            return match[0]
        if not target.exists():
            log.warning("%s: link to %s, which does not exist", page.file.src_uri, match[2])
        elif match[3] and target.suffix == ".md" and match[3][1:] not in anchors(target):
            log.warning("%s: link to %s%s, but there is no such heading", page.file.src_uri, match[2], match[3])
        if not target.is_relative_to(ROOT):
            return match[0]
        return f"{match[1]}{config.extra['repository']}{target.relative_to(ROOT)}{match[3] or ''}{match[4]}"

    return LINK.sub(outside, markdown)


def on_post_page(output, page, config):
    """No page loads anything from elsewhere."""
    for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", output):
        if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag):
            log.warning("%s: loads from another site: %s", page.file.src_uri, tag)
    return output


def on_nav(nav, config, files):
    """llms.txt: the pages, for readers that are programs."""
    global pages
    pages = nav.pages


def on_post_build(config):
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", "", "## Pages", ""]
    for page in pages:
        about = page.meta.get("description")
        lines.append(f"- [{page.title}]({page.file.dest_uri})" + (f": {about}" if about else ""))
    lines += ["", "## In the repository", ""]
    for name, about in (
        ("README.md", "how to run it, step by step"),
        ("SPEC.md", "what can be relied on: names, ports, answers, headers, each with its test"),
        ("DESIGN.md", "the path of an event, the order of effects, and the file map"),
        ("SECURITY.md", "what is trusted, what is defended, what is open"),
        ("manifests/README.md", "on Kubernetes"),
    ):
        lines.append(f"- [{name}]({config.extra['repository']}{name}): {about}")
    pathlib.Path(config.site_dir, "llms.txt").write_text("\n".join(lines) + "\n")
