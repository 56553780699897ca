"""What an editor shows of every public value and where its definition is, asked of pyright's language server."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lrjax
from lrjax.catalogue import public_values

VALUES = public_values(vars(lrjax))
ROOT = Path(lrjax.__file__).parents[1]


class LanguageServer:
    """pyright's server on standard input and output, with one open file that doesn't exist on the disk."""

    def __init__(self, text: str):
        program = Path(sys.executable).with_name("pyright-langserver")
        self._process = subprocess.Popen([program, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._requests = 0
        self._uri = (ROOT / "opened_in_the_editor.py").as_uri()
        folder = {"uri": ROOT.as_uri(), "name": "root"}
        wanted = {"textDocument": {"hover": {"contentFormat": ["markdown"]}}}
        self.request("initialize", processId=None, workspaceFolders=[folder], capabilities=wanted)
        self._send(method="initialized", params={})
        document = {"uri": self._uri, "languageId": "python", "version": 1, "text": text}
        self._send(method="textDocument/didOpen", params={"textDocument": document})

    def at(self, method: str, line: int, character: int):
        position = {"line": line, "character": character}
        return self.request(f"textDocument/{method}", textDocument={"uri": self._uri}, position=position)

    def request(self, method: str, **params):
        self._requests += 1
        self._send(id=self._requests, method=method, params=params)
        while True:
            message = self._receive()
            if "method" not in message and message["id"] == self._requests:
                return message["result"]
            if "method" in message and "id" in message:  # the server asks too: for settings, of which there are none
                self._send(id=message["id"], result=[{}] if message["method"] == "workspace/configuration" else None)

    def _send(self, **message) -> None:
        content = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(content), content))
        self._process.stdin.flush()

    def _receive(self):
        headers = dict(line.split(": ") for line in iter(lambda: self._process.stdout.readline().decode().strip(), ""))
        return json.loads(self._process.stdout.read(int(headers["Content-Length"])))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def server():
    opened = LanguageServer("import lrjax\n" + "".join(f"lrjax.{name}\n" for name in VALUES))
    yield opened
    opened.close()


@pytest.mark.slow
def test_hover_shows_the_signature_as_written_and_the_docstring(server):
    for line, (name, cls) in enumerate(VALUES.items(), start=1):
        shown = server.at("hover", line, len("lrjax."))["contents"]["value"].replace("\\", "")
        head, _, text = shown.partition("\n---\n")
        for parameter in inspect.signature(cls).parameters.values():
            annotation = str(parameter.annotation)
            written = (
                f"{parameter.name}: {annotation}"
                if annotation.isidentifier() and annotation != "Callable"
                else f"{parameter.name}: "
            )
            assert written in head, (name, written, head)
        assert inspect.getdoc(cls).splitlines()[0] in text, (name, text)


@pytest.mark.slow
def test_the_definition_is_the_formula_in_its_family_file(server):
    for line, (name, cls) in enumerate(VALUES.items(), start=1):
        (place,) = server.at("definition", line, len("lrjax."))
        path = inspect.getsourcefile(cls.__wrapped__)
        assert place["uri"] == Path(path).as_uri(), name
        defined = Path(path).read_text(encoding="utf-8").splitlines()[place["range"]["start"]["line"]]
        assert defined.startswith(f"def {name}("), (name, defined)
