"""A reader of HTML that fails on tags out of order, and text that tries to break out of them."""

from html.parser import HTMLParser

CELLS = {"td", "th", "dd", "small"}  # what stands apart on the screen
VOID = {"meta", "link", "input", "wbr", "br"}
LOADS = {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
HOSTILE = "<script>alert(1)</script><!--</textarea>\"'&</title>"


class Page(HTMLParser):
    """Fails on a tag that is not closed in order; collects text, tags, attributes and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.names: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.words.append(" " * (tag in CELLS))
        self.names += [name for name, _ in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.loads += [value or "" for name, value in attrs if name in LOADS]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.words.append(data)
