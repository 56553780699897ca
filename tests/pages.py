"""What holds for every page."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

SVG = "{http://www.w3.org/2000/svg}"


class Balanced(HTMLParser):
    void = {"meta", "br", "link"}

    def __init__(self):
        super().__init__()
        self.open, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def assert_needs_nothing(text):
    """Its tags are balanced, nothing is loaded from elsewhere, and it fits a phone."""
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert not any({"src", "href", "srcset"} & set(attrs) for _, attrs in parser.tags)
    assert "url(" not in text and "@import" not in text and "fetch(" not in text
    assert set(re.findall(r"https?://[\w./]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, never loaded
    assert {"viewport"} <= {attrs.get("name") for tag, attrs in parser.tags if tag == "meta"}


def charts_of(text):
    return [ET.fromstring(c) for c in re.findall(r"<svg [^>]*class=\"chart\".*?</svg>", text, flags=re.DOTALL)]
