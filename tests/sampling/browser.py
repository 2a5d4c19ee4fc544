"""A headless Chromium, driven through its DevTools protocol over a pipe: what a page shows, prints and asks for."""

import json
import os
import queue
import shutil
import subprocess
import threading
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"]


class Browser:
    """One page in a browser of its own; `complaints` are the console's messages and errors, `requests` the addresses asked for."""

    def __init__(self, folder: Path):
        commands, self.to_browser = os.pipe()
        self.from_browser, answers = os.pipe()
        # The browser reads descriptor 3 and writes descriptor 4.
        line = f'exec "$@" 3< /dev/fd/{commands} 4> /dev/fd/{answers}'
        words = ["sh", "-c", line, "sh", CHROMIUM, *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(words, pass_fds=[commands, answers], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self.answers: queue.Queue = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.count, self.session = 0, None
        self.complaints, self.requests = [], []
        [page] = [each for each in self.ask("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        self.session = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **values: object) -> dict:
        """Return the browser's answer to a command of the protocol; what happens meanwhile is noted."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": values} | ({"sessionId": self.session} if self.session else {})
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while (answer := self.answers.get(timeout=60)).get("id") != self.count:
            self._note(answer.get("method"), answer.get("params", {}))
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def open(self, address: str) -> None:
        """Open a page and wait until its scripts have run."""
        self.ask("Page.navigate", url=address)
        while not self.value(f"location.href === {json.dumps(address)} && document.readyState === 'complete'"):
            time.sleep(0.05)

    def value(self, script: str) -> object:
        """Return the value of an expression in the page; a promise is awaited."""
        answer = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def close(self) -> None:
        """End the browser, and its processes: it ends when its pipe closes."""
        os.close(self.to_browser)
        self.process.wait(timeout=60)

    def _note(self, event: str, values: dict) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(values)

    def _read(self) -> None:
        with os.fdopen(self.from_browser, "rb") as stream:
            rest = b""
            while part := os.read(stream.fileno(), 1 << 20):
                *whole, rest = (rest + part).split(b"\0")
                for message in whole:
                    self.answers.put(json.loads(message))
